"""A server as a child process: started, waited for, asked, and stopped whatever happens.

Nothing here knows an engine; `scion.engines.vllm.server` says what to run. `running` guarantees:

- The port is free before the start, and the child lives while it is waited for and asked, so
  another server on that port is never mistaken for ours.
- The wait is bounded. A child that dies, or is too slow, becomes a `ScionError` with the end of its
  log.
- The child, and all that it started, are gone when the block is left, by an interrupt too, and when
  this process is killed outright: `scion.engines.processes` sees to that. One that others may have
  stays a minute for them.
- It listens on the loopback address only.
"""

import contextlib
import http.client
import json
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.common.progress import doing
from scion.engines.processes import Process, ProcessRequest

LOOPBACK = "127.0.0.1"
_LOG_LINES = 20
# A line that names an exception, and is no mere warning.
_CAUSE = re.compile(r"(?!.* (?:WARNING|INFO) ).*\w(?:Error|Exception): ")
# Longest silence of a server during one request: a long decode on two slow cores, not a hang.
_REQUEST_SECONDS = 600.0
# Never through a proxy that the environment names: the server is this machine's own.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Command:
    """What to run, and how to read its log.

    Attributes:
        arguments: The command line, the interpreter first.
        environment: All of the child's environment variables.
        model: The name under which the server must offer its model.
        record: The command as results keep it, without what is this machine's own.
        explain: What a log says: the phase that the start is in.
        key: Of servers that are alike, if the next who asks for one may have this; or None.
        fresh: Whether it must not have served somebody else.
        alone: Whether servers that are kept for others end before it starts.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    model: str
    record: Mapping[str, Any]
    explain: Callable[[str], str]
    key: str | None = None
    fresh: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        url: Its address, without a path.
        model: The name of the model that requests must give.
        command: The command that started it, as results keep it; None for one that ran already.
        start_seconds: From the start until it was ready; None for one that ran already.
        log: The file with its output; None for one that ran already.
    """

    url: str
    model: str
    command: Mapping[str, Any] | None = None
    start_seconds: float | None = None
    log: Path | None = None

    @property
    def openai_url(self) -> str:
        """The base address for OpenAI clients."""
        return f"{self.url}/v1"

    def read(self, path: str) -> str:
        """The text that `GET path` answers."""
        return self._request(path, None).decode()

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON value that `POST path` answers.

        Raises:
            ScionError: The server refuses, fails or does not answer; shows its log's end.
        """
        text = self._request(path, json.dumps(body).encode())
        try:
            return json.loads(text)
        except ValueError as error:
            raise self.failure(
                "a request to the server failed",
                where=self.url + path,
                expected="a whole JSON value",
                found=f"{error}: {text[:200]!r}",
            ) from error

    def failure(
        self, problem: str, *, where: object, expected: object, found: object
    ) -> ScionError:
        """An error about something that this server answered, with the end of its log."""
        return ScionError(
            problem,
            where=where,
            expected=expected,
            found=f"{found}{log_end(self.log)}",
            hint=f"read {self.log}" if self.log else "read the server's own log",
        )

    def _request(self, path: str, body: bytes | None) -> bytes:
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        try:
            with _HTTP.open(request, timeout=_REQUEST_SECONDS) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            found = f"HTTP {error.code}: {error.read().decode(errors='replace')[:500]}"
        except (OSError, http.client.HTTPException) as error:
            found = str(error) or type(error).__name__
        raise self.failure(
            "a request to the server failed",
            where=self.url + path,
            expected="an answer",
            found=found,
        )


def log_end(log: Path | None) -> str:
    """The last lines of a log, indented, to end an error's `found` with; empty without a log."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()
    root = [line for line in lines if _CAUSE.match(line)][:1]
    shown = lines[-_LOG_LINES:]
    # The cause stands far above the end: each of the server's processes adds its own traceback.
    above = [*root, "[…]"] if root and root[0] not in shown else []
    return "".join(f"\n    | {line}" for line in [*above, *shown])


def connect(url: str, *, model: str | None = None) -> Server:
    """The server that runs already at `url`; it is neither started nor stopped.

    Args:
        url: Its address, with or without the path `/v1`.
        model: The name of the model to ask; None for its only one.

    Raises:
        ScionError: Nothing answers there, or it offers no such model, or several.
    """
    address = url.rstrip("/").removesuffix("/v1")
    models = _models(address)
    if not models:
        raise ScionError(
            "the named server is not ready",
            where=f"serving.server_url: {url}",
            expected="a server that answers /health and lists a model at /v1/models",
            found="no answer, or no model",
            hint="start that server, or set serving.server_url to null to have one started",
        )
    if model not in models if model is not None else len(models) > 1:
        raise ScionError(
            "which model of the named server is the release is not clear",
            where=f"serving.server_url: {url}",
            expected="its only model" if model is None else f"a model {model!r}",
            found=", ".join(models),
            hint="say which of them it is in serving.server_model",
        )
    return Server(address, model or models[0])


@contextlib.contextmanager
def running(
    command: Command, *, forks: Path, port: int, log: Path, start_seconds: float
) -> Generator[Server]:
    """Run a server while the block lasts, or use one that was kept for whoever asks for the same.

    Args:
        command: What to run; it must listen on `port` of the loopback address.
        forks: Socket of the fork server that starts it.
        port: Checked to be free.
        log: Written anew with all that the server prints.
        start_seconds: Longest wait until it is ready.

    Raises:
        ScionError: The port is taken; the server dies or is not ready in time.
    """
    check_port(port)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _start(command, forks, port, log)
    try:
        yield _wait(process, command, log, start_seconds)
    except BaseException:
        process.stop()
        raise
    if command.key is None:
        process.stop()
    else:
        process.keep()


def check_port(port: int) -> None:
    """Raise a `ScionError` if something listens on `port` of the loopback address."""
    with socket.socket() as probe:
        # As servers do: connections that a server closed lately must not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ScionError(
                f"port {port} is taken",
                where="serving.port",
                expected=f"nothing that listens on {LOOPBACK}:{port}",
                found=error,
                hint=f"end what listens there (ss -ltnp 'sport = :{port}'), or set serving.port "
                "to a free port",
            ) from error


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _start(command: Command, forks: Path, port: int, log: Path) -> Process:
    request = ProcessRequest(
        command.arguments,
        command.environment,
        server=command.key,
        fresh=command.fresh,
        alone=command.alone,
        about={"port": port, "log": str(log.absolute())},
    )
    with log.open("wb") as output, open(os.devnull) as nothing:
        return Process(forks, request, nothing.fileno(), output.fileno(), output.fileno())


def _wait(process: Process, command: Command, log: Path, limit: float) -> Server:
    begin = time.monotonic()
    last_told = 0.0
    written = log
    while True:
        seconds = time.monotonic() - begin
        code = process.poll()
        phase = command.explain(written.read_text(errors="replace"))
        if code is not None:
            raise _not_ready(
                f"the server died while {phase}", command, written, f"exit code {code}"
            )
        if process.about is not None:
            if written is log and process.about["log"] != str(log.absolute()):
                written = Path(process.about["log"])
                log.write_text(f"Served by a server that was started before: {written}\n")
            address = f"http://{LOOPBACK}:{process.about['port']}"
            if command.model in _models(address):
                print(f"server: ready after {seconds:.0f} s", file=sys.stderr, flush=True)
                doing("")
                return Server(address, command.model, command.record, round(seconds, 1), written)
        if seconds > limit:
            raise _not_ready(
                f"the server is not ready after {limit:.0f} s", command, written, f"still {phase}"
            )
        if seconds >= last_told + 5:
            last_told = seconds
            print(f"server: {seconds:.0f} s, {phase}…", file=sys.stderr, flush=True)
            doing(f"{phase}, {seconds:.0f} s")
        process.poll(0.25)


def _not_ready(problem: str, command: Command, log: Path, found: str) -> ScionError:
    return ScionError(
        problem,
        where=log,
        expected=f"{command.model} offered at /v1/models",
        found=found + log_end(log),
        hint=f"read {log}; to try it by hand: {' '.join(command.arguments)}",
    )


def _models(address: str) -> list[str]:
    """The models that a server offers; none while it is not healthy."""
    try:
        with _HTTP.open(f"{address}/health", timeout=5):
            pass
        with _HTTP.open(f"{address}/v1/models", timeout=5) as response:
            return [entry["id"] for entry in json.load(response)["data"]]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return []
