"""Sound checkpoints of other classes and other spellings than releases have raise no alarm."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import PreTrainedModel

from checkpoints import TEXT, VISION, edit_json
from lint_cases.layouts import (
    HEAD,
    MOE,
    in_bf16,
    in_fp8,
    nest_names,
    restack,
    store_as,
    to_mlx,
)
from lint_cases.names import extend_vocabulary
from lint_cases.scheme import set_exclusions
from lint_checkpoints import drop_tensors, llama, qwen35, read_tensors, rename_tensors, sound
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.shards import Checkpoint
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engine
from scion.lint.all_rules import RULES
from scion.lint.report import unchecked
from scion.lint.rule import Finding, Result, Severity, run, select_rules
from scion.lint.subject import Subject

# What is read from names, shapes and the scheme; tokenizers and the like are not written here.
JUDGED = ("F1", "N", "M", "Q", "S", "D")
MLP_AND_HEADS = {
    **{key: TEXT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")},
    **{key: TEXT[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim")},
    "vocab_size": 48,
}


def errors(folder: Path, *engines: str) -> dict[str, Finding]:
    """The findings of severity error, the first of each rule."""
    chosen = [engine for word in engines for engine in parse_engine(word)] or DEFAULT_ENGINES
    subject = Subject.open(open_source(str(folder)), engines=chosen)
    results = run(subject, select_rules(RULES, select=JUDGED, deep=True))
    return {
        result.rule.code: result.finding
        for result in reversed(results)
        if result.rule.severity is Severity.ERROR
    }


def saved(folder: Path, kind: Any, model_type: str, **sizes: Any) -> PreTrainedModel:
    """A tiny model of one of transformers' classes, and what it writes."""
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model: PreTrainedModel = kind(config)
    model.bfloat16().save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_type", ["qwen3_5_text", "qwen3_5_moe_text"])
def test_the_language_model_alone_as_transformers_writes_it(
    tmp_path: Path, model_type: str
) -> None:
    sizes = {**TEXT, **{key: MOE["text_config"][key] for key in MOE_SIZES}}
    flat, nested = tmp_path / "flat", tmp_path / "nested"
    sizes["mtp_num_hidden_layers"] = 0
    model = saved(flat, transformers.AutoModelForCausalLM.from_config, model_type, **sizes)
    nest_names(flat)
    # It is the language model's part of a whole checkpoint that is read so, and written again.
    cls: Any = type(model)
    again, loading = cls.from_pretrained(flat, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    again.save_pretrained(nested)
    for folder in (flat, nested):
        names = Checkpoint.open(folder).shard_of
        assert any(name.startswith("model.language_model.") for name in names)
        assert errors(folder) == {}
    assert set(errors(nested, "vllm==0.27.0")) == {"N212"}
    assert errors(nested, "vllm==0.28.0") == {}


MOE_SIZES = (
    *("moe_intermediate_size", "num_experts", "num_experts_per_tok"),
    "shared_expert_intermediate_size",
)


def test_nested_names_of_the_language_model_alone_are_judged_like_others(tmp_path: Path) -> None:
    config = {**qwen35()["text_config"], "architectures": ["Qwen3_5ForCausalLM"]}
    folder = sound(tmp_path / "model", spelling="modelopt", config=config)
    nest_names(folder)
    assert errors(folder) == {}
    set_exclusions(folder)
    assert "Q403" in errors(folder)
    edit_json(folder / "config.json", lambda config: config.update(intermediate_size=128))
    assert errors(folder)["N204"].expected == "[128, 32]"


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Qwen3Model", {}),
        ("Qwen3ForSequenceClassification", {"num_labels": 1}),
        ("Qwen3ForSequenceClassification", {"id2label": {0: "no", 1: "maybe", 2: "yes"}}),
        ("Qwen3ForSequenceClassification", {"tie_word_embeddings": True}),
        ("Qwen3ForTokenClassification", {}),
        ("LlamaForSequenceClassification", {}),
        ("Qwen2ForTokenClassification", {"num_labels": 5}),
        ("Qwen3_5ForSequenceClassification", {}),
        ("Qwen3_5Model", {}),
        ("Qwen3_5TextModel", {}),
    ],
)
def test_classes_with_another_end_or_none(tmp_path: Path, kind: str, sizes: dict[str, Any]) -> None:
    cls = getattr(transformers, kind)
    model_type = cls.config_class.model_type
    own = {
        "qwen3_5": {"text_config": TEXT, "vision_config": {**VISION, "num_heads": 2}},
        "qwen3_5_text": TEXT,
    }
    sizes = {**own.get(model_type, MLP_AND_HEADS), **sizes}
    saved(tmp_path, cls, model_type, **sizes)
    assert errors(tmp_path) == {}
    drop_tensors(tmp_path, lambda name: name.endswith(("norm.weight", "score.weight")))
    assert "N203" in errors(tmp_path)


def as_embedding(folder: Path) -> None:
    """As Qwen3-Embedding is published."""
    rename_tensors(folder, lambda name: name.removeprefix("model."))
    (folder / "modules.json").write_text("[]")


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_models_have_no_head_and_no_prefix(tmp_path: Path, tied: bool) -> None:
    folder = sound(tmp_path / "model", config=llama(tie_word_embeddings=tied))
    drop_tensors(folder, lambda name: name.startswith("lm_head."))
    as_embedding(folder)
    assert errors(folder) == {}
    drop_tensors(folder, lambda name: name.startswith("layers.1."))
    assert errors(folder).keys() == {"N203"}
    (folder / "modules.json").unlink()
    assert "N205" in errors(folder)


def test_a_class_that_is_not_known_is_judged_but_for_its_end(tmp_path: Path) -> None:
    config = llama(architectures=["LlamaForRewardModel"])
    folder = sound(tmp_path / "model", config=config)
    rename_tensors(folder, lambda name: name.replace("lm_head.", "v_head.summary."))
    assert errors(folder) == {}
    rename_tensors(folder, lambda name: name.replace("q_proj", "query"))
    assert errors(folder).keys() == {"N202", "N203"}


def test_stacks_that_the_list_excludes(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model", spelling="modelopt", config=MOE)
    restack(in_bf16)(folder)
    restack(in_bf16, HEAD)(folder)
    assert errors(folder).keys() == {"Q403"}
    listed = json.loads((folder / "config.json").read_text())["quantization_config"]["ignore"]
    set_exclusions(folder, *listed, "*.mlp.experts*")
    assert errors(folder) == {}


def test_stacks_in_fp8_as_transformers_writes_them(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model", spelling="fp8", config=MOE)
    restack(in_fp8)(folder)
    assert errors(folder) == {}


def test_tensors_named_by_part_are_no_stack(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model", spelling="modelopt", config=MOE)
    rename_tensors(folder, lambda name: re.sub(r"\.experts\.(\d+)\.(\w+)", r".experts.\2.\1", name))
    found = errors(folder)
    assert {"N202", "N203"} <= found.keys()
    assert "N209" not in found


def test_the_rest_of_a_layout_of_mlx_is_said_to_be_unjudged(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    to_mlx(folder)
    assert errors(folder).keys() == {"N211"}
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    assert any("the layout is MLX's" in line for line in unchecked(subject, RULES, RULES))


def test_shapes_below_a_repeated_prefix_are_judged(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    rename_tensors(folder, lambda name: name.replace("language_model.", "language_model." * 3))
    assert errors(folder).keys() == {"N201"}
    extend_vocabulary(folder)
    assert errors(folder).keys() == {"N201", "N204"}


IN_FLOAT32 = (
    *("A_log", "dt_bias", "norm.weight", "mlp.gate.weight", "shared_expert_gate.weight"),
    *("lm_head.weight", "conv1d.weight"),
)


def dtype_findings(folder: Path) -> list[Result]:
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    return run(subject, select_rules(RULES, select=["N214"]))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_what_trainers_keep_in_float32_is_sound(tmp_path: Path, dtype: str) -> None:
    folder = sound(tmp_path / "model", config=MOE)
    store_as(dtype, "weight")(folder)
    store_as("F32", *IN_FLOAT32)(folder)
    assert dtype_findings(folder) == []


def test_a_tower_may_have_a_dtype_of_its_own(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    store_as("F32", *(name for name in read_tensors(folder) if "visual" in name))(folder)
    assert dtype_findings(folder) == []
