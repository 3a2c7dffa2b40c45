"""What lies near a fault of schemes and scales, and is none; and what a report says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import published
from checkpoints import edit_json
from lint_cases.cache import FP8, declare_a_cache
from lint_cases.engine_scales import quantize_weights_alone
from lint_cases.foreign import ATTENTION, AWQ, GPTQ, MLP, declare, pack
from lint_cases.mtp import drop_head
from lint_cases.numbers import LAYER, set_scalar
from lint_cases.sizes import WIDE_ATTENTION, quantize_in_blocks
from lint_checkpoints import (
    Spelling,
    Stored,
    edit_tensors,
    llama,
    plain,
    qwen35,
    scalar,
    sound,
    write_shard,
)
from scion.checkpoint.folder_source import open_source
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engine
from scion.formats.modelopt import HF_QUANT_CONFIG
from scion.lint.all_rules import RULES
from scion.lint.report import Report, closing
from scion.lint.rule import Result, run, select_rules
from scion.lint.subject import Subject


def opened(folder: Path, engine: str = "", *, gpus: tuple[int, ...] = (1,)) -> Subject:
    engines = parse_engine(engine) if engine else DEFAULT_ENGINES
    return Subject.open(open_source(str(folder)), engines=engines, tensor_parallel=gpus)


def results(folder: Path, engine: str = "", *, gpus: tuple[int, ...] = (1,)) -> list[Result]:
    return run(opened(folder, engine, gpus=gpus), select_rules(RULES))


def codes(folder: Path, engine: str = "", *, gpus: tuple[int, ...] = (1,)) -> set[str]:
    return {result.rule.code for result in results(folder, engine, gpus=gpus)}


def made(tmp_path: Path, spelling: Spelling = "bf16", **config: Any) -> Path:
    return sound(tmp_path / "model", spelling=spelling, config=llama(**config))


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        (FP8, "FP8"),
        ({"num_bits": 4, "type": "float", "group_size": 16}, "NVFP4"),
        ("NVFP4", "NVFP4"),
        ({"num_bits": 8, "type": "int"}, "INT8"),
        (None, None),
    ],
)
def test_a_cache_that_both_files_declare_alike_is_no_difference(
    numbers: object, name: str | None, tmp_path: Path
) -> None:
    folder = made(tmp_path, "modelopt")
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].update(kv_cache_scheme=numbers),
    )
    edit_json(
        folder / HF_QUANT_CONFIG,
        lambda config: config["quantization"].update(kv_cache_quant_algo=name),
    )
    assert codes(folder) == ({"Q411"} if name else set())


def test_scales_of_all_layers_satisfy_a_declared_cache(tmp_path: Path) -> None:
    folder = made(tmp_path, "compressed-tensors")
    declare_a_cache(folder)

    def change(tensors: dict[str, Stored]) -> None:
        for layer in range(2):
            above = f"model.layers.{layer}.self_attn"
            tensors |= {f"{above}.{part}_scale": scalar(0.02, shape=(1,)) for part in "kv"}

    edit_tensors(folder, change)
    assert codes(folder) == set()


def test_scales_by_head_are_right_where_they_are_declared(tmp_path: Path) -> None:
    folder = made(tmp_path, "compressed-tensors", num_attention_heads=4, num_key_value_heads=2)

    def change(tensors: dict[str, Stored]) -> None:
        for layer in range(2):
            above = f"model.layers.{layer}.self_attn"
            by_head = Stored("F32", (2, 1, 1), b"\0\0\0\x3f" * 2)
            tensors |= {f"{above}.{part}_scale": by_head for part in "kv"}

    edit_tensors(folder, change)
    assert codes(folder) == {"S506"}
    scheme = {**FP8, "strategy": "attn_head"}
    edit_json(
        folder / "config.json",
        lambda config: config["quantization_config"].update(kv_cache_scheme=scheme),
    )
    assert codes(folder) == set()


def test_single_layers_may_see_large_inputs(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model", spelling="modelopt", config=qwen35())
    set_scalar(folder, f"{LAYER}.mlp.down_proj.input_scale", 3.0)
    assert codes(folder) == set()


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("vllm==0.28.0", {"S511"}), ("vllm==0.29.0", {"Q409"}), ("sglang", {"Q409"})],
)
def test_scales_of_inputs_are_missed_where_an_engine_reads_them(
    engine: str, expected: set[str], tmp_path: Path
) -> None:
    folder = made(tmp_path, "modelopt")
    quantize_weights_alone(folder)
    assert codes(folder, engine) == expected


def test_a_missing_scale_of_inputs_is_told_once_where_inputs_are_declared(tmp_path: Path) -> None:
    folder = made(tmp_path, "modelopt")

    def change(tensors: dict[str, Stored]) -> None:
        for name in [name for name in tensors if name.endswith(".input_scale")]:
            del tensors[name]

    edit_tensors(folder, change)
    assert codes(folder, "vllm==0.28.0") == {"S507"}


@pytest.mark.parametrize("gpus", [(1,), (1, 2), (4,)])
def test_whole_blocks_on_each_gpu_are_sound(gpus: tuple[int, ...], tmp_path: Path) -> None:
    folder = sound(tmp_path / "model", config=WIDE_ATTENTION)
    quantize_in_blocks(folder)
    assert codes(folder, gpus=gpus) == set()


@pytest.mark.parametrize(
    ("packed", "scheme"),
    [
        ((*ATTENTION, *MLP), {**GPTQ, "modules_in_block_to_quantize": [ATTENTION, MLP]}),
        ((*ATTENTION, *MLP), {**GPTQ, "modules_in_block_to_quantize": None}),
        (MLP, {**GPTQ, "modules_in_block_to_quantize": [MLP]}),
        (MLP, {**AWQ, "modules_to_not_convert": ["self_attn"]}),
        (MLP, AWQ),
    ],
)
def test_lists_that_name_what_is_packed_are_sound(
    packed: tuple[str, ...], scheme: dict[str, Any], tmp_path: Path
) -> None:
    folder = made(tmp_path)
    pack(folder, *packed)
    declare(folder, **scheme)
    assert codes(folder) == set()


@pytest.mark.parametrize(
    "scheme",
    [
        {"quant_method": "fp8_per_tensor"},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"targets": ["LlamaAttention"], "weights": None}},
            "kv_cache_scheme": {**FP8, "strategy": "tensor", "symmetric": True},
        },
    ],
    ids=["while loading", "cache alone"],
)
def test_plain_tensors_may_be_what_a_declaration_means(
    scheme: dict[str, Any], tmp_path: Path
) -> None:
    folder = made(tmp_path)
    declare(folder, **scheme)
    assert "Q412" not in codes(folder)


def behind_the_last(folder: Path) -> None:
    names = ("eh_proj.weight", "enorm.weight")
    tensors = {f"model.layers.2.{name}": plain(name, (32,)) for name in names}
    edit_tensors(folder, lambda stored: stored.update(tensors))


def in_a_file_of_its_own(folder: Path) -> None:
    write_shard(folder / "mtp.safetensors", {"model.layers.2.enorm.weight": plain("n", (32,))})


def under_a_name_of_its_own(folder: Path) -> None:
    tensor = plain("n", (32,))
    edit_tensors(folder, lambda stored: stored.update({"model.mtp_block.0.norm.weight": tensor}))


@pytest.mark.parametrize("add", [behind_the_last, in_a_file_of_its_own, under_a_name_of_its_own])
def test_heads_of_unknown_families_are_found(add: Callable[[Path], None], tmp_path: Path) -> None:
    folder = made(tmp_path)
    edit_json(
        folder / "config.json",
        lambda config: config.update(model_type="glm4_moe", num_nextn_predict_layers=1),
    )
    assert "M301" in codes(folder)
    add(folder)
    assert "M301" not in codes(folder)


def test_a_command_is_offered_where_the_workflow_takes_the_checkpoint(tmp_path: Path) -> None:
    dense = sound(tmp_path / "dense", config=qwen35())
    mixture = published.Layout("", "", published.qwen35(moe=True)).write(tmp_path / "mixture")
    for folder in (dense, mixture):
        drop_head(folder)
    unknown = made(tmp_path / "unknown")
    announced = {"model_type": "glm4_moe", "num_nextn_predict_layers": 1}
    edit_json(unknown / "config.json", lambda config: config.update(announced))
    for folder, offered in ((dense, True), (mixture, True), (unknown, False)):
        [result] = [result for result in results(folder) if result.rule.code == "M301"]
        assert (result.command is not None) is offered
        assert "graft" in result.rule.repair


@pytest.mark.parametrize(
    ("spelling", "pattern"), [("modelopt", "mtp*"), ("compressed-tensors", "re:.*mtp")]
)
def test_the_pattern_that_is_advised_excludes_the_head(
    spelling: Spelling, pattern: str, tmp_path: Path
) -> None:
    folder = sound(tmp_path / "model", spelling=spelling, config=qwen35())
    [advised] = [entry.repair for entry in RULES if entry.code == "M304"]
    assert f"`{pattern}`" in advised

    def exclude(*patterns: str) -> Callable[[dict[str, Any]], None]:
        def change(config: dict[str, Any]) -> None:
            scheme = config["quantization_config"]
            kept = [name for name in scheme["ignore"] if "mtp" not in name]
            scheme["ignore"] = [*kept, *patterns]

        return change

    edit_json(folder / "config.json", exclude())
    assert "M304" in codes(folder)
    edit_json(folder / "config.json", exclude(pattern))
    assert "M304" not in codes(folder)


def test_what_was_not_judged_is_not_called_clean(tmp_path: Path) -> None:
    folder = made(tmp_path)
    subject = opened(folder)
    assert closing(Report(subject, RULES, [], []))[-1].startswith("clean")
    pack(folder, *ATTENTION, *MLP)
    declare(folder, **GPTQ)
    subject = opened(folder)
    assert run(subject, select_rules(RULES)) == []
    [*_, summary] = closing(Report(subject, RULES, [], []))
    assert "clean" not in summary
    assert "could be checked" in summary
