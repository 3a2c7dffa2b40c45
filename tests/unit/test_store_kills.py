"""A stage that is killed at any step of its way leaves what was asked for, or nothing."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checkpoints import edit_tensor, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.making import Output
from scion.stages.extract_text import extract_text
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys

SWEEP = Path(__file__).parents[1] / "kill_points.py"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a tiny checkpoint whose keys want mending, up to its text model."""
    folder = tmp_path_factory.mktemp("kills")
    results = folder / "results"
    for name, changes in (("source", {}), ("other", {"vocab_size": 64})):
        write_checkpoint(
            folder / name, tiny_config(**changes), rename=lambda key: f"language_model.{key}"
        )
    write_checkpoint(folder / "donor", tiny_config())
    write_checkpoint(folder / "other_donor", tiny_config(vocab_size=64))
    for name in ("source", "other"):
        made = fetch_source(
            location=str(folder / name), output=Output.at(results / name), environment=ENVIRONMENT
        )
        fixed = fix_keys(
            source=made, output=Output.at(results / f"{name}_fixed"), environment=ENVIRONMENT
        )
        extract_text(
            fixed=fixed,
            output=Output.at(results / f"{name}_text"),
            environment=ENVIRONMENT,
        )
    fetch_donor(
        location=str(folder / "donor"), output=Output.at(results / "donor"), environment=ENVIRONMENT
    )
    return folder


def commands(begun: Path, stage: str) -> tuple[list[str], list[str]]:
    """A command line of the stage, and that of another configuration."""
    # It names no class, and has neither a tokenizer nor a head of the right name.
    lint = json.dumps({"lint": {"ignore": ["C804", "M302", "T601", "T623"]}})
    by_stage: dict[str, tuple[list[str], list[str]]] = {
        "fetch_source": (
            ["--location", str(begun / "source")],
            ["--location", str(begun / "other")],
        ),
        "fetch_donor": (
            ["--location", str(begun / "donor")],
            ["--location", str(begun / "other_donor")],
        ),
        "lint_source": (
            ["--source", "RESULTS/source.json", "--settings", lint],
            ["--source", "RESULTS/other.json", "--settings", lint],
        ),
        "fix_keys": (["--source", "RESULTS/source.json"], ["--source", "RESULTS/other.json"]),
        "extract_text": (
            ["--fixed", "RESULTS/source_fixed.json"],
            ["--fixed", "RESULTS/other_fixed.json"],
        ),
    }
    common = ["--store", "RESULTS/.store", "--output", "RESULTS/made.json"]
    environment = ["--environment", "sha256:killed"]
    asked, other = by_stage[stage]
    return [*common, *environment, *asked], [*common, *environment, *other]


def swept(
    begun: Path, stage: str, lines: tuple[list[str], list[str]], *, over_older: bool, every: int
) -> Any:
    asked, older = lines
    wanted = {
        "stage": stage,
        "signal": signal.SIGKILL,
        "results": str(begun / "results"),
        "asked": asked,
        "earlier": older if over_older else [],
        "every": every,
    }
    done = subprocess.run(
        [sys.executable, SWEEP, json.dumps(wanted)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def converted(conversion: Conversion, pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the embedded pair, up to its release, and a donor with another head."""
    folder = tmp_path_factory.mktemp("converted")
    results = folder / "results"
    shutil.copytree(
        conversion.folder, results, symlinks=True, ignore=shutil.ignore_patterns("work")
    )
    other = shutil.copytree(pico.base, folder / "other_donor")
    edit_tensor(other, "mtp.norm.weight", bytearray.reverse)
    fetch_donor(
        location=str(other), output=Output.at(results / "other_donor"), environment=ENVIRONMENT
    )
    return folder


def later_commands(pico: Pico, stage: str) -> tuple[list[str], list[str]]:
    """A command line of a stage that follows calibration, and that of another configuration."""
    graft = ["--quantized", "RESULTS/quantize_nvfp4.json", "--fixed", "RESULTS/fix_keys.json"]
    graft += ["--text-only", "true", "--donor"]
    verify = ["--release", "RESULTS/graft_mtp.json", "--fixed", "RESULTS/fix_keys.json"]
    verify += ["--donor", "RESULTS/fetch_donor.json", "--settings"]

    def quantize(samples: int) -> list[str]:
        calibration = {"sets": [{"dataset": str(pico.calibration), "samples": samples}]}
        quantization = {
            **{"recipe": "nvfp4_default", "device": "cpu", "max_shard_megabytes": 1},
            "calibration": calibration,
        }
        settings = json.dumps({"quantization": quantization})
        return ["--text", "RESULTS/extract_text.json", "--settings", settings]

    by_stage = {
        "quantize_nvfp4": (quantize(2), quantize(3)),
        "graft_mtp": (
            [*graft, "RESULTS/fetch_donor.json"],
            [*graft, "RESULTS/other_donor.json"],
        ),
        "verify_release": (
            [*verify, json.dumps({"lint": {}})],
            [*verify, json.dumps({"lint": {"ignore": ["T601"]}})],
        ),
    }
    asked, other = by_stage[stage]
    common = ["--store", "RESULTS/.store", "--output", "RESULTS/made.json"]
    common += ["--environment", "sha256:killed"]
    return [*common, *asked], [*common, *other]


@pytest.mark.parametrize("over_older", [False, True], ids=["fresh", "over an older one"])
@pytest.mark.parametrize("stage", ["quantize_nvfp4", "graft_mtp", "verify_release"])
def test_a_kill_of_a_stage_after_calibration_is_made_good_too(
    converted: Path, pico: Pico, request: pytest.FixtureRequest, stage: str, over_older: bool
) -> None:
    whole = request.config.getoption("--every-step")
    if not whole and (stage != "graft_mtp" or over_older):
        pytest.skip("takes minutes: --every-step runs it")
    check_sweep(converted, stage, later_commands(pico, stage), over_older, every=1 if whole else 29)


@pytest.mark.parametrize("over_older", [False, True], ids=["fresh", "over an older one"])
@pytest.mark.parametrize(
    "stage", ["fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text"]
)
def test_a_kill_at_any_step_is_made_good_by_the_same_command(
    begun: Path, request: pytest.FixtureRequest, stage: str, over_older: bool
) -> None:
    every = 1 if request.config.getoption("--every-step") else 17
    check_sweep(begun, stage, commands(begun, stage), over_older, every=every)


def check_sweep(
    begun: Path, stage: str, lines: tuple[list[str], list[str]], over_older: bool, *, every: int
) -> None:
    """Kill a stage at its steps: each of its two command lines has to give its own artifact."""
    found = swept(begun, stage, lines, over_older=over_older, every=every)
    whole, *killed = found["outcomes"]
    assert found["steps"] > 20
    # Threads take their steps in any order, so the last one may be a step later or earlier.
    assert sum(outcome["status"] == signal.SIGKILL for outcome in killed) >= len(killed) - 3
    for outcome in (whole, *killed):
        assert outcome["asked"] == outcome["again"] == whole["asked"], outcome
        assert outcome.get("earlier") == whole.get("earlier"), outcome
        assert outcome["left"] == [], outcome
    if over_older:
        assert whole["earlier"] not in (None, whole["asked"])
