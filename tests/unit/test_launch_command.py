"""`scion launch` as a command of its own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import tiny_config, write_checkpoint
from scion.architectures.families import QWEN3_5
from scion.engines.config import Launch
from scion.engines.served_model import ServedModel
from scion.engines.vllm.cpu_environment import CPU_ENVIRONMENT
from scion.engines.vllm.flags import flags

CONFIG = """
launches:
  - {name: first, title: First, max_model_len: 512, max_num_seqs: 2, gpu: rtx-5090}
  - {name: other, title: Other, max_model_len: 256, speculative_tokens: 0}
serving: {launch: first}
measurement: {launches: [first]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(max_position_embeddings=1024)
    del config["vision_config"]
    return write_checkpoint(tmp_path_factory.mktemp("launch") / "model", config)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "release.yaml"
    path.write_text(CONFIG)
    return path


def scion(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scion.cli.main", "launch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_the_reasons_the_memory_and_the_verdict(folder: Path, config: Path) -> None:
    done = scion(folder, "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    launch = Launch(name="first", title="", max_model_len=512, max_num_seqs=2)
    options = flags(launch, ServedModel(QWEN3_5, lost_tower=True))
    command = " \\\n    ".join([f"vllm serve {folder}", *(flag.text for flag in options)])
    assert done.stdout.startswith(f"{command}\n\n")
    # A reason may run over several lines.
    said = " ".join(done.stdout.split())
    for flag in options:
        assert f"{flag.text} {flag.reason}" in said
    assert "verdict: fits" in done.stdout
    assert "31.36 GiB" in done.stdout


def test_a_launch_is_named_and_changed(folder: Path, config: Path) -> None:
    named = ("--config", config, "--launch", "other", "--gpu", "h100")
    done = scion(folder, *named, "--max-num-seqs", 7, "--kv-cache-dtype", "fp8")
    assert done.returncode == 0
    command = done.stdout.split("\n\n")[0]
    assert "--max-model-len 256" in command
    assert "--max-num-seqs 7" in command
    assert "--kv-cache-dtype fp8" in command
    assert "--speculative-config" not in command


def test_small_memory_is_told_in_smaller_units(folder: Path) -> None:
    said = scion(folder, "--gpu", "h100", "--max-num-seqs", 2, "--max-model-len", 512).stdout
    assert "79.11 GiB" in said
    weights = next(line for line in said.splitlines() if line.startswith("  weights"))
    assert re.search(r" (?!0\.00)[\d.]+ [MK]iB ", weights), weights
    assert "0.00 GiB" not in said
    refused = scion(folder, "--memory-gib", 0.5).stdout
    assert re.search(r"takes [\d.]+ [MK]iB of cache", " ".join(refused.split()))


def test_errors_of_lint_are_named(folder: Path, tmp_path: Path) -> None:
    sound = scion(folder, "--gpu", "h100", "--max-num-seqs", 2)
    assert "N201" not in sound.stdout
    repeated = write_checkpoint(
        tmp_path / "model",
        tiny_config(max_position_embeddings=1024),
        rename=lambda name: name.replace("language_model.", "language_model.language_model."),
    )
    for where in (("--gpu", "h100"), ("--engine", "sglang"), ("--cpu",)):
        last = scion(repeated, *where, "--max-num-seqs", 2).stdout.splitlines()[-1]
        assert last.startswith("scion lint finds errors in it: ")
        assert "N201 repeated-prefix" in last


def test_what_does_not_fit_fails(folder: Path) -> None:
    done = scion(folder, "--memory-gib", 0.5)
    assert done.returncode == 1
    assert "verdict: does not fit" in done.stdout
    assert "problem: one request of 1,024 tokens" in done.stdout


def test_unified_memory_is_warned_of(folder: Path) -> None:
    done = scion(folder, "--gpu", "gb10", "--max-num-seqs", 2)
    assert done.returncode == 0
    assert "warning: unified memory" in done.stdout


def test_the_record_is_one_object(folder: Path) -> None:
    arguments = (folder, "--gpu", "h100", "--engine", "vllm==0.19.1", "--max-num-seqs", 2, "--json")
    record = json.loads(scion(*arguments).stdout)
    assert record["command"].startswith("vllm serve ")
    assert (record["engine"], record["verdict"]) == ("vllm 0.19.1", "fits")


def test_sglang_is_marked_untried(folder: Path) -> None:
    done = scion(folder, "--engine", "sglang")
    assert done.returncode == 0
    assert "python -m sglang.launch_server" in done.stdout
    assert "untried" in done.stdout
    assert "verdict" not in done.stdout


def test_gpus_are_listed() -> None:
    done = scion("--list-gpus")
    assert done.returncode == 0
    assert "rtx-pro-6000" in done.stdout
    assert "97,887" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ([], ["neither the launch nor an option", "--memory-gib"]),
        (["--gpu", "rtx-9999"], ["not known", "rtx-pro-6000"]),
        (["--engine", "tensorrt-llm"], ["not written for this engine"]),
        (["--engine", "vllm==99"], ["no known release"]),
    ],
)
def test_what_cannot_be_judged_is_refused(
    folder: Path, arguments: list[str], texts: list[str]
) -> None:
    done = scion(folder, *arguments)
    assert done.returncode == 1
    for text in (*texts, "expected:", "hint:"):
        assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_launch_is_refused(folder: Path, config: Path) -> None:
    done = scion(folder, "--config", config, "--launch", "third")
    assert done.returncode == 1
    assert "one of first, other" in done.stderr


def test_drafts_without_a_head_are_refused(tmp_path: Path) -> None:
    model = write_checkpoint(
        tmp_path / "model", tiny_config(max_position_embeddings=1024), mtp=False
    )
    done = scion(model, "--gpu", "h100", "--speculative-tokens", 3)
    assert done.returncode == 1
    assert "--speculative-tokens 0" in done.stderr
    assert scion(model, "--gpu", "h100", "--max-num-seqs", 2).returncode == 0


def test_a_vision_tower_is_told_of(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model", tiny_config(max_position_embeddings=1024))
    done = scion(model, "--gpu", "h100", "--max-num-seqs", 2)
    assert "--language-model-only \\" not in done.stdout
    assert "verdict: fits with warnings" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model", "--launch", "x"],
        ["model", "--gpu", "h100", "--memory-gib", "1"],
        ["model", "--memory-gib", "nan"],
        ["model", "--max-num-seqs", "0"],
        ["model", "--max-num-seqs", "-1"],
        ["model", "--gpu-memory-utilization", "1.1"],
    ],
)
def test_wrong_options_end_with_the_usage(arguments: list[str]) -> None:
    done = scion(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_no_torch_is_imported(folder: Path) -> None:
    code = (
        "import sys; from scion.cli.main import main; "
        f"sys.argv = ['scion', 'launch', {str(folder)!r}, '--gpu', 'h100', '--max-num-seqs', '2']; "
        "assert main() == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_prediction_is_held_to_a_server_s_log(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    named = (folder, "--gpu", "h100", "--max-num-seqs", 2, "--server-log", log)
    missing = scion(*named)
    assert missing.returncode == 1
    assert "the server's log is not there" in missing.stderr
    log.write_text("INFO starting\n")
    empty = scion(*named)
    assert empty.returncode == 1
    assert "GPU KV cache size" in empty.stderr

    plain = json.loads(scion(folder, "--gpu", "h100", "--max-num-seqs", 2, "--json").stdout)
    half = plain["kv_cache_tokens"] // 2
    log.write_text(
        f"INFO GPU KV cache size: {half:,} tokens\n"
        "INFO Maximum concurrency for 1,024 tokens per request: 8.00x\n"
        "INFO Model loading took 0.01 GiB and 1 seconds\n"
    )
    pairs = json.loads(scion(*named, "--json").stdout)["beside_server"]
    assert set(pairs) == {"kv_cache_tokens", "concurrency", "weights_gib"}
    tokens = {"predicted": plain["kv_cache_tokens"], "reported": half}
    assert pairs["kv_cache_tokens"] == {**tokens, "ratio": pytest.approx(2, rel=1e-3)}
    assert f"{half:,}" in scion(*named).stdout


def test_a_cpu_has_a_command_of_its_own(folder: Path) -> None:
    done = scion(folder, "--cpu", "--max-model-len", 512)
    assert (done.returncode, done.stderr) == (0, "")
    # What is copied with the command is a comment of the shell's.
    comment = [line for line in done.stdout.split("VLLM_")[0].splitlines() if line]
    assert all(line.startswith("# ") for line in comment)
    assert " ".join(line[2:] for line in comment) == f"In {CPU_ENVIRONMENT}:"
    assert not json.loads(scion(folder, "--cpu", "--json").stdout)["command"].startswith("#")
    assert f"python -m vllm.entrypoints.launchers.api_server.entry --model {folder}" in done.stdout
    assert "VLLM_CPU_KVCACHE_SPACE=1" in done.stdout
    assert "--enforce-eager" in done.stdout
    assert "not predicted for a CPU" in done.stdout
    assert scion(folder, "--cpu", "--engine", "sglang").returncode == 2


def test_several_gpus_are_told_and_counted(folder: Path) -> None:
    one, two = (
        json.loads(scion(folder, "--gpu", "h100", "--tensor-parallel", n, "--json").stdout)
        for n in (1, 2)
    )
    assert "--tensor-parallel-size 2" in two["command"]
    assert "tensor-parallel" not in one["command"]
    # The tiny model has one head that can't be shared.
    assert (one["gpus"], two["gpus"], two["verdict"]) == (1, 2, "does not fit")
    assert "2 GPUs can't share the model's heads" in two["findings"][0]["text"]


@pytest.mark.parametrize("where", [("--gpu", "h100"), ("--engine", "sglang"), ("--cpu",)])
def test_a_context_beyond_the_models_does_not_fit(folder: Path, where: tuple[str, ...]) -> None:
    done = scion(folder, *where, "--max-model-len", 1025)
    assert done.returncode == 1
    assert "--max-model-len 1024" in done.stdout + done.stderr
    assert scion(folder, *where, "--max-model-len", 1024, "--max-num-seqs", 2).returncode == 0


def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, folder: Path) -> None:
    missing = scion(tmp_path / "missing", "--gpu", "h100")
    assert "there is no such folder" in missing.stderr
    assert "found:    nothing" in missing.stderr
    (tmp_path / "empty").mkdir()
    assert "no checkpoint is here" in scion(tmp_path / "empty", "--gpu", "h100").stderr
    flat = tmp_path / "flat"
    shutil.copytree(folder, flat)
    config = json.loads((flat / "config.json").read_text())
    (flat / "config.json").write_text(json.dumps({**config.pop("text_config"), **config}))
    told = scion(flat, "--gpu", "h100").stderr
    assert "config.json is flat" in told
    assert "model_type qwen3_5_text" in told


def test_names_of_strangers_steer_no_terminal(folder: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(folder, hostile)
    index = hostile / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["x\x1b[2J\n::error::forged"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    told = scion(hostile, "--gpu", "h100")
    assert told.returncode == 1
    assert "\\x1b[2J" in told.stderr
    assert "\x1b" not in told.stderr
    assert "\n::error" not in told.stderr
