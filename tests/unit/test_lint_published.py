from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import edit_json
from lint_checkpoints import edit_tensors
from published import Layout
from published_layouts import (
    LAYOUTS,
    foreign,
    nvidia_qwen36_27b_nvfp4,
    qwen36_35b_a3b,
    redhat_llama31_8b_nvfp4a16,
    unsloth_qwen38_27b_nvfp4,
)
from scion.checkpoint.folder_source import open_source
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engine
from scion.lint.all_rules import RULES
from scion.lint.report import unchecked
from scion.lint.rule import Result, Severity, run, select_rules
from scion.lint.subject import Subject

SHALLOW = select_rules(RULES)


def subject(folder: Path, engine: str = "", *, tensor_parallel: tuple[int, ...] = (2,)) -> Subject:
    engines = parse_engine(engine) if engine else DEFAULT_ENGINES
    source = open_source(str(folder))
    return Subject.open(source, engines=engines, tensor_parallel=tensor_parallel)


def lint(folder: Path, engine: str = "") -> list[Result]:
    return run(subject(folder, engine), SHALLOW)


def codes(results: list[Result]) -> set[str]:
    return {result.rule.code for result in results}


def errors(results: list[Result]) -> set[str]:
    return codes([result for result in results if result.rule.severity is Severity.ERROR])


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_nothing_is_found_that_is_not_so(make: Callable[[], Layout], tmp_path: Path) -> None:
    layout = make()
    folder = layout.write(tmp_path / "model")
    assert codes(lint(folder)) == layout.expected
    assert errors(lint(folder, layout.sound_in)) <= layout.expected


@pytest.mark.parametrize("layout", foreign(), ids=lambda layout: layout.mirrors)
def test_methods_that_are_not_known_are_not_judged(layout: Layout, tmp_path: Path) -> None:
    folder = layout.write(tmp_path / "model")
    assert codes(lint(folder)) <= layout.expected
    [line, *_] = unchecked(subject(folder), SHALLOW, SHALLOW)
    assert "the quantized tensors" in line


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (nvidia_qwen36_27b_nvfp4, ".mlp.down_proj.weight_scale_2"),
        (nvidia_qwen36_27b_nvfp4, ".self_attn.o_proj.weight_scale"),
        (redhat_llama31_8b_nvfp4a16, ".mlp.up_proj.weight_global_scale"),
        (unsloth_qwen38_27b_nvfp4, "layers.0.mlp.up_proj.input_global_scale"),
        (unsloth_qwen38_27b_nvfp4, "lm_head.weight_scale"),
    ],
)
def test_a_scale_that_is_needed_is_missed(
    make: Callable[[], Layout], suffix: str, tmp_path: Path
) -> None:
    layout = make()
    for name in [name for name in layout.tensors if name.endswith(suffix)]:
        del layout.tensors[name]
    assert errors(lint(layout.write(tmp_path / "model"))) == {"S507"}


def test_layers_declared_with_inputs_need_their_scales(tmp_path: Path) -> None:
    layout = nvidia_qwen36_27b_nvfp4()
    assert layout.hf_quant_config is not None
    for place in (layout.config["quantization_config"], layout.hf_quant_config["quantization"]):
        place["quantized_layers"] = {
            name: {"quant_algo": layer["quant_algo"].replace("W4A16_", "")}
            for name, layer in place["quantized_layers"].items()
        }
    group = layout.config["quantization_config"]["config_groups"]["group_1"]
    group["input_activations"] = group["weights"]
    assert errors(lint(layout.write(tmp_path / "model"))) == {"S507"}


def test_layers_may_be_declared_in_the_second_file_alone(tmp_path: Path) -> None:
    layout = nvidia_qwen36_27b_nvfp4()
    del layout.config["quantization_config"]["quantized_layers"]
    assert codes(lint(layout.write(tmp_path / "both"), "vllm>=0.23")) == {"Q405"}
    del layout.config["quantization_config"]
    assert codes(lint(layout.write(tmp_path / "second"), "vllm")) == {"Q405"}
    assert codes(lint(tmp_path / "second", "sglang")) == set()


def test_what_is_refused_names_file_and_key(tmp_path: Path) -> None:
    """Before 0.33, vLLM did not take mixed precision from the second file."""
    layout = nvidia_qwen36_27b_nvfp4()
    del layout.config["quantization_config"]
    [result, *_] = lint(layout.write(tmp_path / "model"), "vllm==0.32.0")
    assert result.rule.code == "Q407"
    assert result.finding.file == "hf_quant_config.json"
    assert result.finding.subject == "quantization.quant_algo"


def test_a_stack_that_lost_its_other_half_is_found(tmp_path: Path) -> None:
    layout = qwen36_35b_a3b()
    del layout.tensors["model.language_model.layers.2.mlp.experts.down_proj"]
    assert errors(lint(layout.write(tmp_path / "model"))) == {"N203"}


def test_a_scheme_in_text_config_is_seen(tmp_path: Path) -> None:
    folder = unsloth_qwen38_27b_nvfp4().write(tmp_path / "model")

    def nest(config: dict) -> None:
        config["text_config"]["quantization_config"] = config.pop("quantization_config")

    edit_json(folder / "config.json", nest)
    assert errors(lint(folder, "vllm")) == set()
    # SGLang does not look there.
    assert errors(lint(folder, "sglang")) == {"Q403", "Q404"}


def test_what_lies_beside_foreign_tensors_is_still_judged(tmp_path: Path) -> None:
    [layout] = [layout for layout in foreign() if layout.mirrors == "GPTQ"]
    folder = layout.write(tmp_path / "model")

    def repeat(tensors: dict) -> None:
        renamed = {
            name.replace("model.", "model.model.", 1): tensor for name, tensor in tensors.items()
        }
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(folder, repeat)
    assert errors(lint(folder)) == {"N201"}
