"""Runs a driver in the environment of its harness, from the stage's side.

The driver is started as servers are, by a fork server: it is gone when the stage is. It sees no
proxy, no key and no hub: it talks to the server alone. What it writes besides its result stays in a
folder that is removed with it, and in its log.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from scion.common.errors import ScionError
from scion.common.progress import Progress, progress
from scion.engines.processes import Process, ProcessRequest, fork_server_socket
from scion.engines.server import Server, log_end
from scion.evaluation.harness.driver import PROGRESS

_PACKAGES = Path(__file__).parents[3]
_WITHOUT = (
    "PYTHON",
    "OPENAI_",
    "HF_",
    "NLTK_",
    "BFCL_",
    "LMEVAL_",
    "SCION_SIGNING_",
    "VIRTUAL_ENV",
)


def run_driver(
    driver: ModuleType,
    request: Mapping[str, Any],
    *,
    python: Path,
    log: Path,
    server: Server | None = None,
) -> Any:
    """Run a driver and return its result.

    Args:
        driver: The driver's module, run as `python -m`.
        request: Its request, JSON-able.
        python: Interpreter of envs/evaluate.
        log: Written anew with all that driver and harness print.
        server: The server that is asked, for its log's end where something fails.

    Raises:
        ScionError: The driver's own, or that it ended without a result.
    """
    require(python)
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scion-evaluate-") as name:
        folder = Path(name)
        request_file, answer = folder / "request.json", folder / "result.json"
        request_file.write_text(json.dumps(request))
        command = (str(python.absolute()), "-m", driver.__name__, str(request_file), str(answer))
        code = _run(command, driver_environment(os.environ, folder), folder, log)
        if code != 0 or not answer.exists():
            raise _ended(driver, code, log, server)
        response = json.loads(answer.read_text())
    if "error" in response:
        error = response["error"]
        raise ScionError(**error | {"found": f"{error['found']}{_server_log(server)}"})
    return response["result"]


def driver_environment(inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The driver's environment variables: the caller's, less what would lead it elsewhere."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(_WITHOUT) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "PYTHONPATH": str(_PACKAGES),
        "PYTHONNOUSERSITE": "1",
        "NO_PROXY": "*",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "TQDM_DISABLE": "1",
        "HF_HOME": str(folder / "hub"),
        "NLTK_DATA": str(folder / "nltk"),
        "BFCL_PROJECT_ROOT": str(folder / "bfcl"),
    }


def require(python: Path) -> None:
    """Raise a `ScionError` if the environment of the harnesses is not installed."""
    if not python.exists():
        raise ScionError(
            "the environment of the harnesses is not installed",
            where=python,
            expected="the interpreter of envs/evaluate",
            found="no such file",
            hint="make setup",
        )


def _run(command: tuple[str, ...], variables: dict[str, str], folder: Path, log: Path) -> int:
    """Run the command until it ends; the exit code. Its progress is told as the stage's own."""
    forks = fork_server_socket(Path(command[0]), (), variables, log=log.with_suffix(".imports.log"))
    end, start = os.pipe()
    request = ProcessRequest(command, variables, folder=str(folder))
    with os.fdopen(end, "rb") as lines, log.open("wb") as output, ExitStack() as stack:
        try:
            with open(os.devnull) as nothing:
                child = Process(forks, request, nothing.fileno(), start, start)
        finally:
            os.close(start)
        told = _Told(stack)
        try:
            for line in lines:
                output.write(line)
                output.flush()
                if line.startswith(PROGRESS.encode()):
                    told.take(json.loads(line.decode().removeprefix(PROGRESS)))
            return child.wait()
        finally:
            child.stop()


@dataclass
class _Told:
    """The progress of a driver, told until the stack is left."""

    stack: ExitStack
    requests: Progress | None = None
    done: int = 0

    def take(self, message: Mapping[str, Any]) -> None:
        """Take up what `scion.evaluation.harness.driver` sends."""
        if "say" in message:
            print(f"evaluation: {message['say']}", file=sys.stderr, flush=True)
            return
        if self.requests is None:
            work = progress(message["unit"], message["total"])
            self.requests = self.stack.enter_context(work)
        if message["done"] > self.done:
            self.requests.advance(amount=message["done"] - self.done)
            self.done = message["done"]


def _ended(driver: ModuleType, code: int, log: Path, server: Server | None) -> ScionError:
    return ScionError(
        "the harness ended without a result",
        where=driver.__name__,
        expected="exit code 0 and a result",
        found=f"exit code {code}{log_end(log)}{_server_log(server)}",
        hint=f"read {log}",
    )


def _server_log(server: Server | None) -> str:
    end = log_end(server.log) if server else ""
    return f"\n  the server's log ends:{end}" if end else ""
