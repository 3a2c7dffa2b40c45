"""A family that Scion does not have, added as one row: every stage knows it then."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5Config, Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5DecoderLayer,
    Qwen3_5ForCausalLM,
    Qwen3_5GatedDeltaNet,
    Qwen3_5RMSNorm,
    Qwen3_5TextModel,
    Qwen3_5TextRotaryEmbedding,
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from checkpoints import edit_json
from conversion import Conversion, Pico, convert
from lint_checkpoints import drop_tensors, edit_tensors, llama, plain, rename_tensors
from lint_checkpoints import sound as sound_checkpoint
from scion.architectures.families import FAMILIES, QWEN3_5
from scion.architectures.family import (
    FUSED_ATTENTION,
    FUSED_MLP,
    Decoder,
    Family,
    Head,
    ServerParsers,
    TransformersClasses,
)
from scion.architectures.inventory import inventory
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.shards import Checkpoint, read_json
from scion.common.errors import ScionError
from scion.config import Launch
from scion.engines.registry.decisions import decisions
from scion.engines.registry.engines import DEFAULT_ENGINES, ENGINES, newest
from scion.engines.releases import Affected
from scion.engines.served_model import ServedModel
from scion.engines.vllm.flags import flags
from scion.engines.vllm.memory_estimates import weights as loaded_weights
from scion.evaluation.chats import Chat
from scion.evaluation.offline.acceptance import measure_offline
from scion.lint.all_rules import RULES
from scion.lint.rule import run
from scion.lint.subject import Subject

# What the row's `transformers` names, which this module hands on as a modelling module does.
__all__ = ["torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"]


class SaplingTextConfig(Qwen3_5TextConfig):
    """The language model's configuration, as a library of the family's makers would have it."""

    model_type = "sapling_text"


class SaplingConfig(Qwen3_5Config):
    """That of the whole model."""

    model_type = "sapling"
    sub_configs: ClassVar = {**Qwen3_5Config.sub_configs, "text_config": SaplingTextConfig}


class SaplingForCausalLM(Qwen3_5ForCausalLM):
    """The language model."""

    config_class = SaplingTextConfig


# The whole of what Scion is told.
SAPLING = Family(
    model_type="sapling",
    title="Sapling",
    decoder=QWEN3_5.decoder,
    architecture="SaplingForConditionalGeneration",
    nested=True,
    text_model_type="sapling_text",
    text_architecture="SaplingForCausalLM",
    nested_prefix="model.trunk.",
    vision_prefix="model.eye.",
    head=Head("draft_head.", "num_draft_layers"),
    fused=QWEN3_5.fused,
    kept=QWEN3_5.kept,
    chats=QWEN3_5.chats,
    parsers={"vllm": ServerParsers("sapling_tools", "sapling_thoughts")},
    transformers=TransformersClasses(
        modeling=__name__,
        config=SaplingConfig.__name__,
        text_model=Qwen3_5TextModel.__name__,
        layer=Qwen3_5DecoderLayer.__name__,
        norm=Qwen3_5RMSNorm.__name__,
        rotary=Qwen3_5TextRotaryEmbedding.__name__,
        delta_net=Qwen3_5GatedDeltaNet.__name__,
    ),
    released=True,
    plain_engines=("vllm>=0.20",),
)
CHAT = Chat("one", [{"role": "user", "content": "Which files are there?"}], None, {})


@pytest.fixture(scope="module", autouse=True)
def sapling() -> Iterator[Family]:
    """The row in the table, as an edit would put it there, and the classes of its library."""
    AutoConfig.register("sapling", SaplingConfig, exist_ok=True)
    AutoConfig.register("sapling_text", SaplingTextConfig, exist_ok=True)
    AutoModelForCausalLM.register(SaplingTextConfig, SaplingForCausalLM, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for row in SAPLING.spellings():
            patch.setitem(FAMILIES, row.model_type, row)
        yield SAPLING


def respelt(name: str) -> str:
    """The name of one of the embedded pair's tensors in the made-up family."""
    name = f"draft_head.{name.removeprefix('mtp.')}" if name.startswith("mtp.") else name
    return name.replace("language_model", "trunk").replace("visual", "eye")


def respell_config(config: dict[str, Any]) -> dict[str, Any]:
    text = dict(config["text_config"], model_type="sapling_text")
    text["num_draft_layers"] = text.pop("mtp_num_hidden_layers")
    kind = {"model_type": "sapling", "architectures": [SAPLING.architecture]}
    return {**config, **kind, "text_config": text}


@pytest.fixture(scope="module")
def planted(pico: Pico, sapling: Family, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The embedded pair as a pair of the made-up family, through every stage of the conversion."""
    folder = tmp_path_factory.mktemp("sapling")
    for name in ("pico-agent", "pico-base"):
        shutil.copytree(pico.folder / name, folder / name)
        rename_tensors(folder / name, respelt)
        edit_json(folder / name / "config.json", respell_config)
    shutil.copy(pico.calibration, folder)
    return convert(Pico(folder), folder / "made")


def test_the_release_is_that_of_the_known_family_under_its_own_names(
    planted: Conversion, conversion: Conversion
) -> None:
    ours, theirs = planted.graft_mtp.tensors(), conversion.graft_mtp.tensors()
    assert {name: row["sha256"] for name, row in ours.items()} == {
        respelt(name): row["sha256"] for name, row in theirs.items()
    }
    assert planted.fix_keys.facts["renamed_tensors"] == 142
    assert planted.graft_mtp.facts["mtp_tensors"] == 15


def test_config_declares_the_head_and_leaves_it_out_of_the_scheme(planted: Conversion) -> None:
    config = read_json(planted.graft_mtp.folder / "config.json")
    assert config["text_config"]["num_draft_layers"] == 1
    ignored = config["quantization_config"]["ignore"]
    assert {"draft_head*", "model.trunk.embed_tokens"} <= set(ignored)
    assert not any("mtp" in name or "language_model" in name for name in ignored)


def test_lint_judges_it_for_the_engines_that_its_row_names(planted: Conversion) -> None:
    subject = Subject.open(open_source(str(planted.graft_mtp.folder)), engines=DEFAULT_ENGINES)
    # A text-only release of a class with a tower, and a template for one system message.
    assert {result.rule.code for result in run(subject, RULES)} == {"C806", "T609"}
    config = read_json(planted.graft_mtp.folder / "config.json")
    fc, qkv = "draft_head.fc", "model.trunk.layers.3.self_attn.q_proj"
    made = decisions(newest("vllm"), config, None, [fc, qkv])
    assert (made[fc].algorithm, made[qkv].algorithm) == (None, "NVFP4")
    # No engine is guessed at that the row does not name.
    assert decisions(newest("sglang"), config, None, [fc, qkv]) == {}


def test_a_lost_head_is_found_under_its_own_name(planted: Conversion, tmp_path: Path) -> None:
    folder = shutil.copytree(planted.graft_mtp.folder, tmp_path / "release")
    drop_tensors(folder, lambda name: name.startswith("draft_head."))
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    dropped = [result for result in run(subject, RULES) if result.rule.code == "M301"]
    assert [result.finding.subject for result in dropped] == ["draft_head.*"]


def test_a_head_named_as_in_another_family_is_found(planted: Conversion, tmp_path: Path) -> None:
    folder = shutil.copytree(planted.graft_mtp.folder, tmp_path / "release")
    rename_tensors(folder, lambda name: name.replace("draft_head.", "mtp."))
    edit_json(
        folder / "config.json", lambda config: config["text_config"].update(num_draft_layers=2)
    )
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    findings = [result.finding for result in run(subject, RULES) if result.rule.code == "M302"]
    assert "draft_head.fc.weight" in {finding.subject for finding in findings}
    assert {finding.found for finding in findings} == {
        "15 tensors under other names, such as mtp.fc.weight"
    }
    rename_tensors(folder, lambda name: name.replace("mtp.", "draft_head."))
    restored = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    undeclared = [result for result in run(restored, RULES) if result.rule.code == "M303"]
    assert [result.finding.subject for result in undeclared] == ["num_draft_layers"]


def test_servers_get_its_parsers_and_memory_knows_its_head(planted: Conversion) -> None:
    launch = Launch(name="pico", title="", max_model_len=512)
    options = flags(launch, ServedModel(SAPLING))
    words = [word for flag in options for word in flag.arguments]
    assert {"sapling_tools", "sapling_thoughts"} <= set(words)
    checkpoint = Checkpoint.open(planted.graft_mtp.folder)
    tensors = {name: checkpoint.tensor(name) for name in checkpoint.shard_of}
    with_drafts = loaded_weights(tensors, drafts=True, text_only=True)
    without = loaded_weights(tensors, drafts=False, text_only=True)
    assert with_drafts.parts["MTP head"] == without.left_out == planted.graft_mtp.facts["mtp_bytes"]


def test_its_drafts_are_those_of_the_known_family(
    planted: Conversion, conversion: Conversion
) -> None:
    ours, theirs = (
        measure_offline(made.graft_mtp.folder, [CHAT], reply_tokens=12, device="cpu")
        for made in (planted, conversion)
    )
    assert ours.drafts > 0
    assert ours.prompts == theirs.prompts


def test_without_its_row_it_is_refused_by_name(planted: Conversion) -> None:
    config = read_json(planted.graft_mtp.folder / "config.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(FAMILIES, "sapling")
        with pytest.raises(ScionError, match="not known") as caught:
            inventory(config, where="config.json")
    assert "sapling" in str(caught.value)
    assert "architectures/families.py" in caught.value.hint


def test_a_row_changes_nothing_for_other_families(monkeypatch: pytest.MonkeyPatch) -> None:
    release, query = newest("vllm"), "model.layers.0.self_attn.q_proj"
    scheme: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    scheme["ignore"] = ["model.layers.0.self_attn.qkv_proj"]
    config = llama(quantization_config=scheme)
    before = decisions(release, config, None, [query])
    assert before[query].algorithm is None
    fused = {"qk_proj": ("q_proj", "k_proj"), **FUSED_MLP}
    monkeypatch.setitem(FAMILIES, "sapling", replace(SAPLING, fused=fused))
    assert decisions(release, config, None, [query]) == before


def test_engines_that_rows_name_are_known() -> None:
    for row in FAMILIES.values():
        named = {Affected.parse(releases).name for releases in row.plain_engines}
        assert named | row.parsers.keys() <= ENGINES.keys(), row.title


def test_a_plain_decoder_is_linted_by_its_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Family(
        model_type="shrub",
        title="Shrub",
        decoder=Decoder(qk_norm=True),
        architecture="ShrubForCausalLM",
        fused={**FUSED_ATTENTION, **FUSED_MLP},
        plain_engines=("vllm",),
    )
    monkeypatch.setitem(FAMILIES, "shrub", row)
    config = llama(model_type="shrub", architectures=["ShrubForCausalLM"])
    folder = sound_checkpoint(tmp_path / "shrub", spelling="modelopt", config=config)
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES[:1])
    assert [result.rule.code for result in run(subject, RULES)] == []
    rename_tensors(folder, lambda name: name.replace("q_norm", "query_norm"))
    broken = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES[:1])
    assert {result.rule.code for result in run(broken, RULES)} >= {"N202", "N203"}


def test_a_head_beside_a_family_without_one_is_reported(tmp_path: Path) -> None:
    folder = sound_checkpoint(tmp_path / "llama", config=llama())
    edit_tensors(
        folder,
        lambda tensors: tensors.update({"mtp.layers.0.input_layernorm.weight": plain("a", (32,))}),
    )
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    findings = [result.finding for result in run(subject, RULES) if result.rule.code == "M303"]
    assert [finding.expected for finding in findings] == ["1"]
