"""Rules over the multi-token-prediction head: whether a server can draft with it."""

from collections.abc import Container, Iterable
from itertools import pairwise

from scion.architectures.families import (
    FAMILIES,
    QWEN3_5_HEAD,
    family_of,
    head_prefixes,
    in_head,
)
from scion.architectures.family import Head
from scion.checkpoint.shards import CONFIG
from scion.engines import facts
from scion.lint.formats import method_of
from scion.lint.mismatches import mismatches
from scion.lint.modules import NVFP4
from scion.lint.naming import weight_of
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_GRAFT = workflow_until("graft_mtp")
_MOST_LAYERS = 8


@rule(
    "M301",
    "mtp-dropped",
    Severity.ERROR,
    "config.json declares an MTP head, and none of its tensors is there",
    repair="graft the tensors of the base model's MTP head back, bit for bit; or declare 0 layers, "
    "and serve without drafts",
    command=_GRAFT,
    stage="graft_mtp",
    seen=(
        "https://github.com/modelscope/ms-swift/issues/9802",
        "https://github.com/NVIDIA/Model-Optimizer/issues/733",
        "https://github.com/ModelCloud/GPTQModel/issues/2643",
        "https://github.com/vllm-project/vllm/issues/35548",
        "https://github.com/NVIDIA/Model-Optimizer/issues/750",
    ),
)
def mtp_dropped(subject: Subject) -> Iterable[Finding]:
    """The head was lost when the model was loaded or saved.

    transformers does not instantiate `mtp.*`: it ignores these keys on loading, so whatever is
    saved from such a model, fine-tune or quantization, has none, while config.json still declares
    them. A server that is asked to draft then loads uninitialised memory: it accepts 0 % of the
    drafts and is slower than without, and nothing says why, since vLLM checks for missing weights
    in unquantized models only. Quantizers that build the decoder's layers alone lose the heads of
    DeepSeek's and GLM's families too, which are one more layer behind the last.
    """
    family, expected = family_of(subject.config), subject.inventory
    if family is None or family.head is None:
        yield from _undrafted(subject)
    elif (
        expected is not None
        and expected.mtp
        and expected.mtp_declared
        and not any(map(in_head, subject.tensors))
    ):
        where, count = f"{family.head.prefix}*", f"{len(expected.mtp)} tensors"
        yield Finding(subject.names_file, where, count, "none of them")


def _undrafted(subject: Subject) -> Iterable[Finding]:
    """The head that config.json declares, of an architecture that is not known, if it is nowhere.

    Such heads have names of their own (`mtp.*`, `model.mtp_layers.*`, `model.mtp_block.*`), or lie
    behind the decoder's last layer, under the next number. They may be in a file of their own.
    """
    text = subject.text_config
    last = text.get("num_hidden_layers")
    for key in dict.fromkeys(row.head.layers_key for row in FAMILIES.values() if row.head):
        declared = text.get(key)
        if not isinstance(declared, int) or not isinstance(last, int) or declared < 1:
            continue
        behind = {str(last + layer) for layer in range(min(declared, _MOST_LAYERS))}
        if not any(_is_of_head(name, behind) for name in subject.stored_names):
            where = f"{QWEN3_5_HEAD.prefix}* or layers.{last}.*"
            expected = f"the MTP layers that {key}: {declared} declares"
            yield Finding(subject.names_file, where, expected, "no such tensor")


def _is_of_head(name: str, behind: Container[str]) -> bool:
    """Whether a tensor's name is that of a head, by a part of it or by the number of its layer."""
    parts = name.split(".")
    numbered = any(part == "layers" and number in behind for part, number in pairwise(parts))
    return numbered or any(part.startswith(("mtp", "nextn")) for part in parts)


@rule(
    "M302",
    "mtp-incomplete",
    Severity.ERROR,
    "tensors of the MTP head are missing or misnamed",
    repair="graft the whole head of the base model",
    command=_GRAFT,
    seen=("https://github.com/vllm-project/vllm/issues/35548",),
)
def mtp_incomplete(subject: Subject) -> Iterable[Finding]:
    """Part of the head is there, or all of it under names that engines don't read.

    Engines take what begins with `mtp.` and skip anything else, `model.mtp.` too. What they don't
    find stays uninitialised memory: drafts are accepted at 0 %, without an error in a quantized
    model.
    """
    expected = subject.inventory
    head = expected.family.head if expected is not None else None
    stored = {weight_of(name) for name in subject.tensors if in_head(name)}
    if expected is None or head is None or not stored:
        return
    represented = expected.represented(stored)
    missing = [name for name in expected.mtp if name not in represented]
    found = "no such tensor"
    misnamed = [name for name in stored if not name.startswith(head.prefix)]
    if misnamed:
        found = f"{len(misnamed)} tensors under other names, such as {min(misnamed)}"
    yield from (
        Finding(subject.names_file, name, "a tensor of the MTP head", found) for name in missing
    )


@rule(
    "M303",
    "mtp-undeclared",
    Severity.ERROR,
    "config.json does not declare the MTP layers that the checkpoint holds",
    repair="set the key that the finding names to their number",
)
def mtp_undeclared(subject: Subject) -> Iterable[Finding]:
    """The number of MTP layers in config.json is not the number in the shards.

    vLLM and SGLang build as many layers as config.json says. With 0 the head is never used; with
    more than there are, the rest is uninitialised memory; with fewer, layers are skipped.
    """
    expected = subject.inventory
    if expected is None:
        return
    # Beside a family without a head, one of the commonest spelling is looked for.
    head = expected.family.head or QWEN3_5_HEAD
    declared, held = (_layers(head, names) for names in (expected.mtp, subject.tensors))
    if held and held != declared:
        found = f"{declared}, while the shards hold {held}"
        yield Finding(CONFIG, head.layers_key, str(held), found)


def _layers(head: Head, names: Iterable[str]) -> int:
    """The number of MTP layers among tensor names."""
    prefix = f"{head.prefix}layers."
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})


@rule(
    "M304",
    "mtp-quantized-by-mistake",
    Severity.ERROR,
    "the scheme and the MTP head's tensors disagree",
    repair="exclude what of the head is stored plain, and no more: all of it with `mtp*` in "
    "config.json and hf_quant_config.json alike, with `re:.*mtp` in compressed-tensors",
    command=workflow_until("quantize_nvfp4"),
    holds_for=f"{QWEN3_5_HEAD.fc} of Qwen3.5 in NVFP4: {facts.MTP_FC_QUANTIZED}",
    seen=(
        "https://github.com/vllm-project/vllm/issues/38650",
        "https://github.com/vllm-project/vllm/issues/38832",
        "https://github.com/NVIDIA/Model-Optimizer/pull/1124",
    ),
)
def mtp_quantized_by_mistake(subject: Subject) -> Iterable[Finding]:
    """An engine builds a module of the head in another format than its tensors have.

    ModelOpt up to 0.43 excludes `mtp.layers.0*`, which misses `mtp.fc`: vLLM builds it quantized
    and stops with an assertion when it meets the bf16 tensor; later releases keep `mtp.fc` in bf16
    whatever the list says, from 0.20 on for Qwen3.5 and from 0.25 on for Qwen3-Next. `re:^mtp.*`
    excludes nothing, for ModelOpt's lists are globs, not regular expressions. `mtp*` covers
    Qwen3.5's head in vLLM; SGLang takes it as bf16 in any NVFP4 checkpoint.
    """
    return mismatches(subject, in_head)


@rule(
    "M305",
    "mtp-in-sglang",
    Severity.WARNING,
    "SGLang drops tensors of an MTP head beside compressed-tensors",
    repair="publish the release in ModelOpt's spelling, in which SGLang always takes a bf16 head",
    holds_for=str(facts.SGLANG_MTP_DROPPED),
    seen=("https://github.com/sgl-project/sglang/issues/35797",),
)
def mtp_in_sglang(subject: Subject) -> Iterable[Finding]:
    """SGLang loads such a head without five of its tensors, and reports an acceptance of 1.000.

    In a compressed-tensors checkpoint whose `ignore` lists the head, SGLang 0.5.23 skips the fused
    attention and MLP weights of the MTP layer. Drafts are then those of uninitialised memory, and
    the acceptance that its log shows is pinned at 1.000, which looks perfect and is not.
    """
    engines = facts.SGLANG_MTP_DROPPED.among(subject.engines)
    held = any(name.startswith(head_prefixes()) for name in subject.tensors)
    quantized = any(module.stored == NVFP4 for module in subject.modules.values())
    if (
        engines
        and held
        and quantized
        and subject.scheme.get("quant_method") == "compressed-tensors"
    ):
        found = "compressed-tensors, with an MTP head"
        yield Finding(CONFIG, "quantization_config", "quant_method modelopt", found, engines)


@rule(
    "M306",
    "quantized-head-under-graphs",
    Severity.WARNING,
    "an NVFP4 head of compressed-tensors drafts nothing under CUDA graphs",
    repair='serve with --enforce-eager or --compilation-config \'{"cudagraph_mode": "NONE"}\', '
    "or keep the head in bf16 or FP8",
    holds_for=str(facts.NVFP4_HEAD_UNDER_GRAPHS),
    seen=("https://github.com/vllm-project/vllm/issues/54997",),
)
def quantized_head_under_graphs(subject: Subject) -> Iterable[Finding]:
    """VLLM captures the draft model's NVFP4 layers in a graph that computes something else.

    Reported of 0.28 on a B200: no draft of a head whose MLP is NVFP4 was accepted, 92 of 100
    without graphs. The same layers are right in the target model, and a head in bf16 or FP8 is
    right in graphs. Whether other releases do so is not known.
    """
    engines = facts.NVFP4_HEAD_UNDER_GRAPHS.among(subject.engines)
    if engines and method_of(subject.scheme) == "compressed-tensors":
        yield from (
            Finding(subject.names_file, name, "bf16 or FP8 in an MTP head", NVFP4, engines)
            for name, module in subject.modules.items()
            if in_head(name) and module.stored == NVFP4
        )


RULES = (
    mtp_dropped,
    mtp_incomplete,
    mtp_undeclared,
    mtp_quantized_by_mistake,
    mtp_in_sglang,
    quantized_head_under_graphs,
)
