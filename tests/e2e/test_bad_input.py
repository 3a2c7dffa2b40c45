"""Bad input, through the stages' own command lines: what is said, and what is left on disk."""

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoints import (
    edit_json,
    edit_tensor,
    half_made,
    snapshot,
    tiny_config,
    write_checkpoint,
)
from commands import Earlier, check_refusal, interrupt, main, pointer, run
from conversion import ENVIRONMENT, Conversion, Pico, copied
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import INDEX
from scion.common import progress_report
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source

PROJECT = Path(__file__).parents[2]
SHARD = "model-00002-of-00003.safetensors"
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)


@pytest.fixture
def outputs(conversion: Conversion, tmp_path: Path) -> Path:
    """A folder of results, store and all, in which every stage has run in another environment."""
    return shutil.copytree(conversion.folder, tmp_path / "results", symlinks=True)


def drafts(*folders: Path) -> list[Path]:
    """What stages have half made in the stores of some folders."""
    return [path for folder in folders for path in folder.glob(".store/work/*/draft/*")]


# A source that can't be used


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = path.read_bytes()
    length = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:length])
    change(header)
    raw = json.dumps(header, separators=(",", ":")).encode().ljust(length - 8)
    assert len(raw) == length - 8
    path.write_bytes(content[:8] + raw + content[length:])


def shift_second(by: int) -> Callable[[dict[str, Any]], object]:
    def change(header: dict[str, Any]) -> None:
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        second = sorted(entries, key=lambda entry: entry["data_offsets"])[1]
        begin, end = second["data_offsets"]
        second["data_offsets"] = [begin + by, end + by]

    return change


def stretch_last(header: dict[str, Any]) -> None:
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    last = max(entries, key=lambda entry: entry["data_offsets"])
    last["data_offsets"][1] += 2
    last["shape"] = [sum(last["data_offsets"][1:]) // 2 - last["data_offsets"][0] // 2]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def lengthen_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", path.stat().st_size))


BAD_SOURCES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing shard": (
        lambda folder: (folder / SHARD).unlink(),
        ("lacks a shard", f"expected: {SHARD}"),
    ),
    "truncated shard": (
        lambda folder: truncate(folder / SHARD),
        ("file size disagree", SHARD, "fetch it again"),
    ),
    "header length past the end": (
        lambda folder: lengthen_header(folder / SHARD),
        ("header runs past the end of the file", SHARD),
    ),
    "overlapping offsets": (
        lambda folder: rewrite_header(folder / SHARD, shift_second(-2)),
        ("tensors overlap", SHARD),
    ),
    "a hole": (
        lambda folder: rewrite_header(folder / SHARD, shift_second(2)),
        ("tensors leave a hole", SHARD),
    ),
    "offsets out of range": (
        lambda folder: rewrite_header(folder / SHARD, stretch_last),
        ("file size disagree", SHARD),
    ),
    "an index entry without tensor": (
        lambda folder: edit_json(
            folder / INDEX, lambda index: index["weight_map"].update({"ghost.weight": SHARD})
        ),
        ("index names a tensor that its shard does not have", "ghost.weight", f"in {SHARD}"),
    ),
}


@pytest.mark.parametrize(("damage", "texts"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_broken_source_is_refused(
    outputs: Path,
    pico: Pico,
    tmp_path: Path,
    damage: Callable[[Path], object],
    texts: tuple[str, ...],
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pico.agent, folder)
    damage(folder)
    output = outputs / "fetch_source"
    earlier = Earlier(output)
    done = run("fetch_source", location=folder, output=pointer(output))
    assert done.returncode == 1
    # The file that is named is one that the reader can open, not one that was removed again.
    check_refusal(done.stderr, str(folder), *texts)
    earlier.check()


@pytest.mark.parametrize("stage", ["fetch_source", "fetch_donor"])
@pytest.mark.parametrize("revision", ["", "@main", "@0123456"], ids=["none", "branch", "short"])
def test_an_unpinned_revision_is_refused(outputs: Path, stage: str, revision: str) -> None:
    earlier = Earlier(outputs / stage)
    done = run(stage, location=f"hf://owner/name{revision}", output=pointer(outputs / stage))
    assert done.returncode == 1
    check_refusal(done.stderr, "not pinned to a commit", "hf://owner/name", "scion pin")
    earlier.check()


# A donor that can't be used


def test_a_donor_without_head_is_refused(outputs: Path, pico: Pico) -> None:
    earlier = Earlier(outputs / "fetch_donor")
    output = pointer(outputs / "fetch_donor")
    done = run("fetch_donor", location=pico.agent, output=output)
    assert done.returncode == 1
    check_refusal(done.stderr, "no whole MTP head", str(pico.agent), "15 tensors", "0 tensors")
    earlier.check()


def test_a_donor_of_another_hidden_size_is_refused(outputs: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "other", tiny_config())
    fetch_donor(location=str(folder), output=Output.at(outputs / "donor"), environment=ENVIRONMENT)
    earlier = Earlier(outputs / "graft_mtp")
    done = run(
        "graft_mtp",
        quantized=pointer(outputs / "quantize_nvfp4"),
        fixed=pointer(outputs / "fix_keys"),
        text_only="true",
        donor=pointer(outputs / "donor"),
        output=pointer(outputs / "graft_mtp"),
    )
    assert done.returncode == 1
    check_refusal(
        done.stderr, "does not fit the target", str(folder), "hidden_size 32", "[192, 384]"
    )
    earlier.check()


# What quantize_nvfp4 refuses. Its command line runs in this process: importing ModelOpt anew for
# each would take longer than all the rest.


def quantize_arguments(
    outputs: Path, dataset: Path, samples: int = 4, output: Path | None = None
) -> list[object]:
    calibration = {"sets": [{"dataset": str(dataset), "samples": samples}]}
    # Not the default recipe, whose search has no part in this.
    quantization = {"recipe": "nvfp4_default", "calibration": calibration, "device": "cpu"}
    settings = {"quantization": quantization}
    return [
        *("--text", pointer(outputs / "extract_text")),
        *("--output", pointer(output or outputs / "quantize_nvfp4")),
        *("--store", outputs / ".store", "--settings", json.dumps(settings)),
        *("--environment", "sha256:commands"),
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "0 rows"),
        (b'{"text": "one"}\n', "1 rows"),
        (b'{"text": "cut o', "Unterminated string"),
        (b"\x1f\x8b\x08\x00\xff\xfe", "codec can't decode"),
        (None, "No such file"),
    ],
    ids=["empty", "too few", "cut off", "not text", "missing"],
)
def test_an_unusable_calibration_set_is_refused(
    conversion: Conversion,
    outputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    found: str,
) -> None:
    dataset = tmp_path / "calibration.jsonl"
    if content is not None:
        dataset.write_bytes(content)
    output = outputs / "quantize_nvfp4"
    earlier = Earlier(output)
    arguments = quantize_arguments(outputs, dataset)
    assert main("quantize_nvfp4", *arguments) == 1
    errors = capsys.readouterr().err
    check_refusal(errors, "calibration set can't be used", str(dataset), found, "quantization.cali")
    earlier.check()


@pytest.mark.parametrize("value", [b"\xc0\x7f", b"\x80\xff"], ids=["NaN", "-infinity"])
def test_a_weight_that_is_not_finite_is_refused(
    conversion: Conversion,
    pico: Pico,
    outputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    value: bytes,
) -> None:
    name = "model.language_model.layers.1.mlp.up_proj.weight"

    def spoil(data: bytearray) -> None:
        data[40:42] = value

    text = copied(conversion.extract_text, tmp_path / "text")
    edit_tensor(text.folder, name, spoil)
    fetch_source(
        location=str(text.folder), output=Output.at(outputs / "extract_text"), environment="x"
    )
    output = outputs / "quantize_nvfp4"
    earlier = Earlier(output)
    arguments = quantize_arguments(outputs, pico.calibration)
    assert main("quantize_nvfp4", *arguments) == 1
    check_refusal(capsys.readouterr().err, "a weight is not finite", name, "NaN or infinity")
    earlier.check()


# The configuration


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("sources: resources/pico/pico-agent\n", ("sources", "not permitted")),
        (
            "quantization: {calibration: {sets: [{samples: many}]}}\n",
            ("quantization.calibration.sets.0.samples", "integer", "many"),
        ),
    ],
    ids=["unknown key", "mistyped value"],
)
def test_a_wrong_configuration_ends_the_run_before_it_starts(
    tmp_path: Path, content: str, texts: tuple[str, ...]
) -> None:
    (tmp_path / "my.yaml").write_text(content)
    done = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "-n", "--configfile", tmp_path / "my.yaml"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    check_refusal(done.stdout + done.stderr, "configuration is not valid", "my.yaml", *texts)


# Interrupts in the middle of each stage


def wide_config() -> dict[str, Any]:
    """A small model but for its embeddings and head of 256 MB each: hashing them takes a while."""
    return tiny_config(vocab_size=4_000_000)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The wide model with broken and with sound keys, both fetched; its files are mostly holes."""
    folder = tmp_path_factory.mktemp("wide")

    def broken(name: str) -> str:
        return f"language_model.{name}"

    for kind, rename in (("broken", broken), ("sound", str)):
        write_checkpoint(folder / kind, wide_config(), shards=1, rename=rename, sparse=True)
        fetch_source(
            location=str(folder / kind),
            output=Output.at(folder / f"{kind}-made"),
            environment=ENVIRONMENT,
        )
    yield folder
    shutil.rmtree(folder)


def check_interrupted(done: subprocess.CompletedProcess[str], earlier: Earlier) -> None:
    assert done.returncode == 130
    assert "interrupted: no half-made artifact is left" in done.stderr
    assert "Traceback" not in done.stderr
    earlier.check()


def check_rerun(stage: str, output: Path, **options: object) -> None:
    done = run(stage, output=pointer(output), **options)
    assert done.returncode == 0, done.stderr
    assert Artifact.open(output).manifest["environment"] == options["environment"]
    assert Artifact.open(output).check() == []


@SIGNALS
@pytest.mark.parametrize("stage", ["fetch_source", "fix_keys", "extract_text"])
def test_a_stage_that_is_interrupted_while_it_hashes_or_copies_leaves_no_trace(
    outputs: Path, wide: Path, stage: str, number: signal.Signals
) -> None:
    options: Any = {
        "fetch_source": {"location": wide / "sound"},
        "fix_keys": {"source": wide / "broken-made.json"},
        "extract_text": {"fixed": wide / "sound-made.json"},
    }[stage]
    options["environment"] = f"sha256:{number.name}"
    output = outputs / stage
    earlier = Earlier(output)
    done = interrupt(
        stage,
        number,
        when=lambda said: "hashing" in said or bool(drafts(outputs, wide)),
        output=pointer(output),
        **options,
    )
    check_interrupted(done, earlier)
    if number is signal.SIGTERM:
        check_rerun(stage, output, **options)


@SIGNALS
def test_fetch_donor_interrupted_while_it_copies_leaves_no_trace(
    outputs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = tiny_config(hidden_size=4096, intermediate_size=8192)
    folder = write_checkpoint(tmp_path / "donor", config, shards=1, sparse=True)
    output = outputs / "fetch_donor"
    earlier = Earlier(output)
    options: Any = {"location": folder, "environment": f"sha256:{number.name}"}

    def copying() -> bool:
        sizes = [path.stat().st_size for path in drafts(outputs)]
        return any(size > 1_000_000 for size in sizes)

    done = interrupt(
        "fetch_donor",
        number,
        when=lambda _: copying(),
        output=pointer(output),
        **options,
    )
    check_interrupted(done, earlier)
    if number is signal.SIGTERM:
        check_rerun("fetch_donor", output, **options)


def journals(outputs: Path) -> list[str]:
    """What the journals of half-made layers say."""
    return [path.read_text() for path in outputs.glob(".store/work/*/kept/layers.jsonl")]


def test_quantize_nvfp4_killed_goes_on_after_the_last_finished_layer(
    conversion: Conversion,
    pico: Pico,
    outputs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = outputs / "quantize_nvfp4"
    earlier = Earlier(output)
    arguments = quantize_arguments(outputs, pico.calibration, samples=12)
    started = [sys.executable, "-m", "scion.stages.quantize_nvfp4", *map(str, arguments)]
    with subprocess.Popen(started, stderr=subprocess.DEVNULL) as process:
        while not any('"part": "model.' in journal for journal in journals(outputs)):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert snapshot(output) == earlier.files
    assert main("quantize_nvfp4", *arguments) == 0
    assert "going on after layer" in capsys.readouterr().err
    assert half_made(outputs) == []
    again = Artifact.open(output)
    (outputs / ".store/records" / f"{again.recipe.removeprefix('sha256:')}.json").unlink()
    assert main("quantize_nvfp4", *arguments) == 0
    assert Artifact.open(output).root == again.root


def test_quantize_nvfp4_interrupted_keeps_its_layers_for_the_same_request(
    conversion: Conversion,
    pico: Pico,
    outputs: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = outputs / "quantize_nvfp4"
    earlier = Earlier(output)
    seen = list[str]()
    # A line of each layer, not one in half a minute.
    monkeypatch.setattr(progress_report, "_LINE_SECONDS", 0.0)

    def press_ctrl_c() -> None:
        while not any("layers:" in part for part in seen):
            seen.append(capfd.readouterr().err)
            stop.wait(0.05)
        signal.raise_signal(signal.SIGINT)

    stop = threading.Event()
    watcher = threading.Thread(target=press_ctrl_c, daemon=True)
    watcher.start()
    many = quantize_arguments(outputs, pico.calibration, samples=96)
    assert main("quantize_nvfp4", *many) == 130
    watcher.join()
    assert "interrupted: no half-made artifact is left" in capfd.readouterr().err
    assert snapshot(output) == earlier.files
    assert len(journals(outputs)) == 1
    few = quantize_arguments(outputs, pico.calibration, samples=1)
    assert main("quantize_nvfp4", *few) == 0
    assert Artifact.open(output).facts["calibration"]["samples"] == 1
    # Those of the other request wait for it.
    assert len(journals(outputs)) == 1


@pytest.fixture
def small_files() -> Iterator[None]:
    """Lets no file of this process grow beyond 100 kB, as a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_quantize_nvfp4_without_room_on_the_disk_says_so(
    conversion: Conversion,
    pico: Pico,
    outputs: Path,
    capsys: pytest.CaptureFixture[str],
    small_files: None,
) -> None:
    output = outputs / "quantize_nvfp4"
    earlier = Earlier(output)
    arguments = quantize_arguments(outputs, pico.calibration)
    assert main("quantize_nvfp4", *arguments) == 1
    errors = capsys.readouterr().err
    check_refusal(errors, "a file can't be written", "room on the disk", "GB are free")
    earlier.check()
