"""Rules over names and shapes: whether the tensors are those that config.json implies."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from scion.architectures.families import FAMILIES, family_of, text_only_classes
from scion.architectures.sound_names import prefix_rules, without_peft
from scion.checkpoint.shards import CONFIG
from scion.engines import facts
from scion.lint.formats import method_of
from scion.lint.modules import HEAD
from scion.lint.naming import Names, names_of, weight_of
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.stacks import PACKED_STACK
from scion.lint.subject import Subject


@rule(
    "N201",
    "repeated-prefix",
    Severity.ERROR,
    "tensor names repeat a module's prefix",
    repair="rewrite the names in the headers; no tensor byte has to move",
    command=workflow_until("fix_keys"),
    stage="fix_keys",
    seen=(
        "https://github.com/huggingface/transformers/issues/45216",
        "https://github.com/huggingface/transformers/issues/45310",
        "https://github.com/huggingface/transformers/issues/45357",
    ),
)
def repeated_prefix(subject: Subject) -> Iterable[Finding]:
    """Each key carries a prefix more than once, as in `model.language_model.language_model.`.

    `save_pretrained` of transformers 5.0 to 5.5 wrote such keys for Qwen3.5 (text keys until 5.5.1,
    visual keys longer). vLLM stops with an unknown parameter; transformers loads not one of these
    tensors, leaves random weights in their place, and says so only in a warning, so that whatever
    is quantized or measured after that is noise.
    """
    names = names_of(subject)
    for (found, sound), count in sorted(_prefixes(names, repeated=True).items()):
        yield Finding(
            subject.names_file, found, f"prefix {sound!r}", f"prefix {found!r}", (), count
        )


def _prefixes(names: Names | None, *, repeated: bool) -> Counter[tuple[str, str]]:
    """Wrong and right prefixes of the renamed keys: those that repeat a part, or the others."""
    rules = prefix_rules(names.renamed) if names else Counter[tuple[str, str]]()
    return Counter({pair: count for pair, count in rules.items() if _repeats(pair[0]) is repeated})


def _repeats(prefix: str) -> bool:
    parts = prefix.split(".")
    return any(part == following for part, following in pairwise(parts))


@rule(
    "N202",
    "unexpected-tensor",
    Severity.ERROR,
    "a tensor that config.json does not imply",
    repair="check that config.json and the shards are of the same model and revision; merge "
    "adapters (`lora_A`, `lora_B`) into the weights",
)
def unexpected_tensor(subject: Subject) -> Iterable[Finding]:
    """A key names no module of the architecture, whatever prefix is taken away.

    vLLM stops with "There is no module or parameter named …"; transformers skips the tensor with a
    warning. Either the tensors are of another model than config.json, a tool has renamed or added
    modules (adapters that were not merged, for one), or config.json has fewer layers than were
    saved.
    """
    names = names_of(subject) if subject.formats is not None else None
    yield from (
        Finding(subject.names_file, name, f"a tensor of {_about(subject)}", "no such module")
        for name in (names.unexpected if names else ())
    )


@rule(
    "N203",
    "missing-tensor",
    Severity.ERROR,
    "a tensor that config.json implies is not there",
    repair="fetch the checkpoint again, or save it from a model that holds all of its weights",
    seen=("https://github.com/inclusionAI/AReaL/issues/1403",),
)
def missing_tensor(subject: Subject) -> Iterable[Finding]:
    """The language model that config.json describes needs a tensor that no shard holds.

    The index can look complete and still leave tensors out, for it is written by the same tool that
    lost them. Engines load what is there: transformers fills the gap with random numbers, vLLM
    checks completeness for unquantized models only, and serves the memory as it was allocated
    otherwise.
    """
    names = names_of(subject) if subject.formats is not None else None
    yield from (
        Finding(subject.names_file, name, f"a tensor of {_about(subject)}", "no such tensor")
        for name in (_missing(subject, names) if names else ())
    )


def _missing(subject: Subject, names: Names) -> list[str]:
    """A tower that is missing as a whole is another rule's."""
    count = len(subject.inventory.vision) if subject.inventory else 0
    tower = names.missing_vision
    return names.missing + (tower if len(tower) < count else [])


def _about(subject: Subject) -> str:
    return f"model_type {subject.config.get('model_type')!r}"


@rule(
    "N204",
    "wrong-shape",
    Severity.ERROR,
    "a tensor's shape is not the one that config.json implies",
    repair="take config.json and the shards of one revision",
)
def wrong_shape(subject: Subject) -> Iterable[Finding]:
    """A tensor has another shape than the sizes in config.json give it.

    Packed NVFP4 weights are compared by the numbers they hold, two to a byte. Engines stop at such
    a tensor, or, where a fused layer hides the difference, read the wrong rows. A vocabulary that
    was extended without `vocab_size` shows here too.
    """
    expected, names = subject.inventory, names_of(subject)
    if expected is None or names is None or subject.formats is None:
        return
    stacked = {
        name: stack.shape
        for name, stack in expected.stacked.items()
        if name not in subject.stacks or subject.stacks[name].stored != PACKED_STACK
    }
    shapes = {**expected.tensors, **stacked}
    for name, tensor in subject.tensors.items():
        module = subject.modules.get(name.rpartition(".")[0])
        holds_weight = module is not None and tensor is module.weight
        found = module.shape if module and holds_weight else tensor.shape
        meant = weight_of(name) if holds_weight else without_peft(name)
        wanted = shapes.get(names.renamed.get(meant, meant))
        if wanted is not None and found != wanted:
            yield Finding(subject.names_file, name, f"{list(wanted)}", f"{list(found or ())}")


@rule(
    "N205",
    "text-only-naming",
    Severity.ERROR,
    "tensor names and architecture don't fit each other",
    repair="name the tensors as config.json's model_type implies: `model.language_model.` under a "
    "nested config, `model.` under a flat one; no tensor byte has to move",
    command=workflow_until("fix_keys"),
    stage="fix_keys",
    seen=("https://github.com/QwenLM/Qwen3.8/issues/64",),
)
def text_only_naming(subject: Subject) -> Iterable[Finding]:
    """A text-only copy of a multimodal model is named half one way, half the other.

    The family has two spellings: under `Qwen3_5ForConditionalGeneration` the language model is
    `model.language_model.…`, under `Qwen3_5ForCausalLM` it is `model.…`. The second class takes the
    first spelling as well, in transformers and in newer engines. The first
    class takes its own alone in vLLM, which stops, and in transformers, which gives random weights
    to what it does not find; SGLang takes both.
    """
    own = family_of(subject.config)
    for (found, sound), count in sorted(_prefixes(names_of(subject), repeated=False).items()):
        flat = own is not None and (found, sound) == (own.flat_prefix, own.nested_prefix)
        refusing = facts.NESTED_CLASS_NESTED_ONLY.among(subject.engines) if flat else ()
        # Below the class of the language model alone both are right, even side by side.
        if not flat or (refusing and own is not None and own.nested):
            expected = f"prefix {sound!r} under {_about(subject)}"
            yield Finding(subject.names_file, found, expected, f"prefix {found!r}", refusing, count)


@rule(
    "N212",
    "nested-names-in-text-class",
    Severity.ERROR,
    "an engine takes the language model's class under flat names alone",
    repair="serve with a later vLLM, or take `language_model.` out of the names",
    holds_for=str(facts.TEXT_CLASS_FLAT_ONLY),
)
def nested_names_in_text_class(subject: Subject) -> Iterable[Finding]:
    """The class is that of the language model alone, its tensors are `model.language_model.…`.

    So transformers writes what it has read from the whole model, and reads it back. vLLM before
    0.28 stops at names that it does not know.
    """
    own, expected = family_of(subject.config), subject.inventory
    engines = facts.TEXT_CLASS_FLAT_ONLY.among(subject.engines)
    if engines and own and expected and own.prefix != expected.family.prefix == own.nested_prefix:
        nested = expected.family.prefix
        yield from (
            Finding(subject.names_file, nested, f"prefix {own.prefix!r}", f"{nested!r}", engines)
            for name in subject.tensors
            if name.startswith(nested)
        )


@rule(
    "N213",
    "text-class-unknown",
    Severity.ERROR,
    "an engine does not know the class of the language model alone",
    repair="serve with a later vLLM, or publish the model as its whole class: below `text_config`, "
    "with names of `model.language_model.`, served with --language-model-only",
    holds_for=str(facts.TEXT_CLASS_UNKNOWN),
    seen=("https://github.com/QwenLM/Qwen3.8/issues/64",),
)
def text_class_unknown(subject: Subject) -> Iterable[Finding]:
    """`architectures` names the class of a multimodal family's language model.

    vLLM registers `Qwen3_5ForCausalLM` and `Qwen3_5MoeForCausalLM` from 0.27 on, and stops at the
    name before.
    """
    names = subject.config.get("architectures")
    for name in names if isinstance(names, list) else ():
        engines = facts.TEXT_CLASS_UNKNOWN.among(subject.engines)
        if name in text_only_classes() and engines:
            whole = next(row for row in FAMILIES.values() if row.text_architecture == name)
            expected = f"{whole.architecture}, the class that it knows"
            yield Finding(CONFIG, "architectures", expected, name, engines)


@rule(
    "N206",
    "tower-missing",
    Severity.WARNING,
    "config.json declares a vision tower that is not there",
    repair="serve with --language-model-only, take the tower's tensors from the base model, or "
    "publish the language model alone: `text_config` as config.json, with its text-only class, and "
    "names and lists without `language_model.`",
    command=workflow_until("extract_text"),
    stage="extract_text",
    holds_for="vllm, sglang",
    seen=("https://github.com/modelscope/ms-swift/issues/9172",),
)
def tower_missing(subject: Subject) -> Iterable[Finding]:
    """`vision_config` is there, and not one tensor of the tower.

    A text-only copy that kept the config of its multimodal source. vLLM builds the tower and stops
    with a ValueError about weights that were not initialized, unless it is told
    `--language-model-only`; transformers fills it with random numbers, and answers about images
    with nonsense. Taking `vision_config` out changes neither: the class then builds the tower of
    its default sizes.
    """
    names = names_of(subject)
    count = len(subject.inventory.vision) if subject.inventory else 0
    if names and count and len(names.missing_vision) == count:
        expected = f"the {count} tensors of the tower"
        yield Finding(CONFIG, "vision_config", expected, "no tensor of it")


@rule(
    "N207",
    "tied-embeddings",
    Severity.ERROR,
    "an engine refuses tied embeddings in a ModelOpt checkpoint",
    repair="serve with a later vLLM, or untie: write lm_head.weight, a copy of the embeddings, set "
    "tie_word_embeddings to false, and exclude lm_head in both declarations",
    holds_for=f"ModelOpt checkpoints: {facts.TIED_HEAD_REFUSED}",
    seen=("https://github.com/vllm-project/vllm/issues/45543",),
)
def tied_embeddings(subject: Subject) -> Iterable[Finding]:
    """`tie_word_embeddings` says that the head is the embedding matrix.

    vLLM 0.24 fails to tie the head of any ModelOpt checkpoint, quantized or not: it stops with a
    NotImplementedError in `tie_weights`.
    """
    engines = facts.TIED_HEAD_REFUSED.among(subject.engines)
    if engines and _is_tied(subject) and method_of(subject.declared) == "modelopt":
        found = "true, in a ModelOpt checkpoint"
        yield Finding(CONFIG, "tie_word_embeddings", "false", found, engines)


@rule(
    "N208",
    "head-beside-tied-embeddings",
    Severity.WARNING,
    "a head lies beside embeddings that config.json ties to it",
    repair="set tie_word_embeddings to false if the head was trained or quantized apart; if it is "
    "a copy of the embeddings, drop it",
    holds_for=", ".join(map(str, facts.TIED_HEAD_DROPPED)),
    seen=(
        "https://github.com/vllm-project/vllm/issues/51063",
        "https://github.com/vllm-project/vllm/pull/51665",
    ),
)
def head_beside_tied_embeddings(subject: Subject) -> Iterable[Finding]:
    """`tie_word_embeddings` is true, and the shards hold an `lm_head` all the same.

    Where it is a copy of the embeddings, as in Qwen/Qwen3-0.6B, only room is wasted. Where it is
    not, SGLang and vLLM before 0.29 drop it and answer with the embeddings, which is gibberish if
    the head was trained apart; later vLLM and transformers 5 compare the two, keep a head that
    differs, and say so. Headers can't tell which it is.
    """
    engines = tuple(
        engine for fact in facts.TIED_HEAD_DROPPED for engine in fact.among(subject.engines)
    )
    if engines and _is_tied(subject):
        expected = "tie_word_embeddings false, or no head"
        yield from (
            Finding(subject.names_file, name, expected, "both", engines)
            for name in subject.tensors
            if name.startswith(f"{HEAD}.")
        )


def _is_tied(subject: Subject) -> bool:
    return subject.inventory is not None and subject.inventory.tied


RULES = (
    repeated_prefix,
    unexpected_tensor,
    missing_tensor,
    wrong_shape,
    text_only_naming,
    nested_names_in_text_class,
    text_class_unknown,
    tower_missing,
    tied_embeddings,
    head_beside_tied_embeddings,
)
