"""The card of a release that was copied elsewhere: its own command serves it, its own curl asks."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import measured
from conversion import Conversion
from scion.artifacts.environments import interpreter
from scion.artifacts.making import Output
from scion.engines.config import PICO_LAUNCH
from scion.engines.server import free_port
from scion.report.config import Card
from scion.stages.render_card import CardSettings, render_card
from scion.stages.seal_release import seal_release
from sealed import MADE_BY
from serving_python import run_code

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
TEMPLATE = PROJECT / "workflow/templates/card.md.jinja"
CARD = Card(repository="owner/pico-release")
STEPS = ("fetch_source", "fetch_donor", "fix_keys", "extract_text", "quantize_nvfp4")
# What vLLM's own parser makes of a command line.
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
read = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
print(json.dumps(vars(read), default=str))
"""


@pytest.fixture(scope="module")
def downloaded(conversion: Conversion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed release, copied into a folder of the name that its card gives it."""
    folder = tmp_path_factory.mktemp("made")
    evidence = {step: getattr(conversion, step) for step in (*STEPS, "verify_release")}
    release = conversion.graft_mtp
    evidence |= measured.artifacts(measured.results(), release=release, folder=folder)
    card = render_card(
        release=release,
        evidence=evidence,
        template=TEMPLATE,
        sections=sorted((TEMPLATE.parent / "sections").iterdir()),
        tasks=measured.TASKS,
        settings=CardSettings(card=CARD, launches=(PICO_LAUNCH,)),
        made_by=MADE_BY,
        output=Output.at(folder / "render_card"),
        environment="sha256:tests",
    )
    seal_release(
        release=release,
        card=card,
        evidence=evidence,
        output=Output.at(folder / "seal_release"),
        environment="sha256:tests",
    )
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(folder / "release", elsewhere / CARD.repository)
    return elsewhere / CARD.repository


@pytest.fixture(scope="module")
def blocks(downloaded: Path) -> list[str]:
    """The shell commands of the card."""
    return re.findall(r"```bash\n(.*?)\n```", (downloaded / "README.md").read_text(), re.DOTALL)


def environment(folder: Path) -> dict[str, str]:
    """A shell's, as `nix develop .#serve-cpu` has it: vLLM's CPU build first on the PATH."""
    bin_folder = (PROJECT / interpreter("envs/serve-cpu")).parent
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = f"{bin_folder}:{os.environ['PATH']}"
    return plain | {"PATH": path, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}


@pytest.fixture(scope="module")
def port(
    downloaded: Path, blocks: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a server that the card's command started beside the release."""
    port, folder = free_port(), tmp_path_factory.mktemp("t")
    (command,) = (block for block in blocks if "api_server.entry" in block)
    log = folder / "server.log"
    # The port alone is changed: others may have the usual one.
    command = command.replace("--port 8000", f"--port {port}")
    with log.open("wb") as output:
        server = subprocess.Popen(
            ("bash", "-c", command),
            cwd=downloaded.parents[1],
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(server, port, log)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        finally:
            _kill(server.pid)


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    health = ("curl", "-sf", f"http://127.0.0.1:{port}/health")
    end = time.monotonic() + 300
    while subprocess.run(health, capture_output=True).returncode:
        assert server.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.5)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_the_cards_curl_is_answered_by_the_cards_command(blocks: list[str], port: int) -> None:
    (curl,) = (block for block in blocks if block.startswith("curl "))
    asked = curl.replace("localhost:8000", f"localhost:{port}").replace("curl ", "curl -sS ", 1)
    done = subprocess.run(("bash", "-c", asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["model"] == CARD.repository
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls", answer
    assert len(choice["message"]["tool_calls"]) >= 1


def test_vllms_parser_reads_the_command_for_gpus(blocks: list[str]) -> None:
    (command,) = (block for block in blocks if block.startswith("vllm serve "))
    words = shlex.split(command.replace("\\\n", ""))
    done = run_code(PARSE, "--model", *words[2:], "--tensor-parallel-size", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (read["model"], read["host"], read["port"]) == (CARD.repository, "127.0.0.1", 8000)
    assert read["served_model_name"] == [CARD.repository]
    assert (read["quantization"], read["language_model_only"]) == ("modelopt", True)
    assert (read["max_model_len"], read["tensor_parallel_size"]) == (2048, 2)
    assert read["enable_prefix_caching"] is None
