"""Lint over the embedded pair and over what the workflow makes of it."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from checkpoints import edit_json
from conversion import ENVIRONMENT, Conversion, Pico
from lint_checkpoints import Stored, compressed_scheme, read_tensors, write_tensors
from scion.architectures.families import QWEN3_5
from scion.artifacts.making import Output
from scion.common.errors import ScionError
from scion.formats.modelopt import HF_QUANT_CONFIG, declared_exclusions
from scion.lint.config import Lint
from scion.lint.gate import lint_folder
from scion.lint.rule import Severity
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.lint_source import lint_source


def errors(folder: Path, *engines: str) -> set[str]:
    """The names of the rules that find an error."""
    settings = Lint(engines=engines) if engines else Lint()
    results = lint_folder(folder, settings)
    return {result.rule.name for result in results if result.rule.severity is Severity.ERROR}


def test_the_source_shows_its_prefix_and_its_lost_head(pico: Pico) -> None:
    assert errors(pico.agent) == {"repeated-prefix", "mtp-dropped"}
    prefixes = {
        result.finding.subject
        for result in lint_folder(pico.agent, Lint())
        if result.rule.name == "repeated-prefix"
    }
    assert "model.language_model.language_model.language_model." in prefixes


def test_preflight_names_the_stages_that_repair_the_source(
    conversion: Conversion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = lint_source(
        source=conversion.fetch_source,
        output=Output.at(tmp_path / "lint_source"),
        settings=Lint(),
        environment=ENVIRONMENT,
    )
    assert made.facts["repaired_by"] == ["fix_keys", "graft_mtp"]
    assert "fix_keys repairs it" in capsys.readouterr().err


def test_preflight_refuses_what_no_stage_repairs(pico: Pico, tmp_path: Path) -> None:
    shutil.copytree(pico.base, tmp_path / "base")
    edit_json(
        tmp_path / "base/config.json",
        lambda config: config["text_config"].update(intermediate_size=400),
    )
    source = fetch_source(
        location=str(tmp_path / "base"),
        output=Output.at(tmp_path / "fetch_source"),
        environment=ENVIRONMENT,
    )
    with pytest.raises(ScionError, match="lint finds") as caught:
        lint_source(
            source=source,
            output=Output.at(tmp_path / "lint_source"),
            settings=Lint(),
            environment=ENVIRONMENT,
        )
    assert "N204 wrong-shape" in caught.value.found
    assert "scion lint --explain N204" in caught.value.hint
    assert not (tmp_path / "lint_source").exists()


def test_the_base_has_no_error_fixed_and_text_only(pico: Pico, tmp_path: Path) -> None:
    source = fetch_source(
        location=str(pico.base), output=Output.at(tmp_path / "source"), environment=ENVIRONMENT
    )
    fixed = fix_keys(source=source, output=Output.at(tmp_path / "fixed"), environment=ENVIRONMENT)
    text = extract_text(
        fixed=fixed,
        output=Output.at(tmp_path / "text"),
        environment=ENVIRONMENT,
    )
    assert errors(pico.base) == errors(fixed.folder) == errors(text.folder) == set()


def test_of_the_fixed_agent_only_the_head_is_missing(conversion: Conversion) -> None:
    assert errors(conversion.fix_keys.folder) == {"mtp-dropped"}
    # From here on config.json declares no head, until there is one.
    assert errors(conversion.extract_text.folder) == set()
    assert errors(conversion.quantize_nvfp4.folder) == set()


def test_the_release_has_no_error_for_current_engines(release: Path) -> None:
    assert errors(release) == set()
    assert errors(release, "vllm>=0.20") == set()


def test_the_release_under_vllm_0_19_shows_the_uninitialised_scale(release: Path) -> None:
    assert errors(release, "vllm==0.19.1") == {"uninitialised-fused-scale"}


def test_the_release_in_the_other_spelling_has_no_error(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    for path in release.iterdir():
        if path.suffix != ".safetensors" and path.name not in (
            HF_QUANT_CONFIG,
            "model.safetensors.index.json",
        ):
            (folder / path.name).write_bytes(path.read_bytes())
    write_tensors(folder, respelt(read_tensors(release)), shards=2)
    kept = [name for name in ignored(release) if name.startswith("model.language_model.layers.")]
    exclude = declared_exclusions(QWEN3_5, kept)
    edit_json(
        folder / "config.json",
        lambda config: config.update(quantization_config=compressed_scheme(exclude)),
    )
    assert errors(folder) == set()


def ignored(folder: Path) -> list[str]:
    return json.loads((folder / "config.json").read_bytes())["quantization_config"]["ignore"]


def respelt(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """ModelOpt's tensors as compressed-tensors spells the same numbers: global scales inverted."""
    globals_ = {"weight_scale_2": "weight_global_scale", "input_scale": "input_global_scale"}
    made: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        if suffix in globals_:
            (value,) = struct.unpack("<f", tensor.data)
            inverse = struct.pack("<f", 1 / value)
            made[f"{module}.{globals_[suffix]}"] = Stored("F32", (1,), inverse)
        elif suffix == "weight" and f"{module}.weight_scale" in tensors:
            made[f"{module}.weight_packed"] = tensor
        else:
            made[name] = tensor
    return made
