"""Processes of another environment, asked of its fork server, `scion.engines.fork_server`.

A run of the workflow has one for the serving environment, which its stages find by the environment
variable `SCION_FORK_SERVER`. A process that finds none has its own, from the first start to its
end, as `multiprocessing` has. Either way

- what was started is gone when it is stopped, by an interrupt too, and when whoever asked for it is
  killed outright: the end of a connection, or of a pipe, is seen on the other side;
- what it leaves in its TMPDIR goes with it.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.engines import fork_server

VARIABLE = "SCION_FORK_SERVER"
"""Environment variable: the path of the socket of a run's fork server."""

_PROGRAM = Path(fork_server.__file__)
_STOP_SECONDS = 20.0
_MOMENT_SECONDS = 0.5
# Longest path of a Unix socket, and the longest name that vLLM and Python give one.
_SOCKET_PATH, _SOCKET_NAME = 107, 40


@dataclass(frozen=True)
class ProcessRequest:
    """A process to start.

    Attributes:
        arguments: The command line; what the fork server's own interpreter runs may be forked.
        environment: All of its environment variables.
        folder: Where it works; None for where this process does.
        server: Key of a server that others may have afterwards; None for what nobody else may.
        fresh: Whether it must not be one that somebody had before.
        alone: Whether servers that are kept for others end before it starts.
        about: What everyone is told who gets it.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str | None = None
    server: str | None = None
    fresh: bool = False
    alone: bool = False
    about: Any = None


class Process:
    """A process that was asked for.

    Attributes:
        pid: Its number; None until it runs.
        about: What the request said that started it, which may be an earlier one.
        code: Exit code; None while it is not known to have ended.
    """

    def __init__(self, path: Path, request: ProcessRequest, *descriptors: int) -> None:
        """Ask for it.

        Args:
            path: Socket of the fork server.
            request: What to start.
            descriptors: Its standard input, output and error.
        """
        self.pid: int | None = None
        self.about: Any = None
        self.code: int | None = None
        self._received = b""
        self._connection = socket.socket(socket.AF_UNIX)
        asked = vars(request) | {
            "environment": dict(request.environment),
            "folder": request.folder or os.getcwd(),
        }
        raw = json.dumps(asked).encode() + b"\n"
        try:
            self._connection.connect(str(path))
            sent = socket.send_fds(self._connection, [raw], list(descriptors))
            self._connection.sendall(raw[sent:])
        except OSError:
            # As if it had ended at once: the fork server is gone.
            self.code = -signal.SIGKILL

    def poll(self, seconds: float = 0.0) -> int | None:
        """Its exit code, waited for at most so long; None while it runs, or is yet to start."""
        end = time.monotonic() + seconds
        while self.code is None:
            left = max(end - time.monotonic(), 0)
            if not select.select([self._connection], [], [], left)[0]:
                break
            self._read()
        return self.code

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        while (code := self.poll(_STOP_SECONDS)) is None:
            pass
        return code

    def keep(self) -> None:
        """Leave the server to the next who asks for the same; it ends if nobody does."""
        with contextlib.suppress(OSError):
            self._connection.sendall(b'{"keep": true}\n')
        self._connection.close()

    def stop(self) -> None:
        """End it, and wait for that."""
        try:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            # It may be starting just now; what has not started in a moment will not start.
            if self.poll(_MOMENT_SECONDS) is None and self.pid is not None:
                self.poll(_STOP_SECONDS)
        finally:
            self._connection.close()

    def _read(self) -> None:
        try:
            raw = self._connection.recv(1 << 16)
        except OSError:
            raw = b""
        if not raw:
            # The fork server is gone, and with it all that it started.
            self.code = -signal.SIGKILL
        *lines, self._received = (self._received + raw).split(b"\n")
        for line in lines:
            answer: dict[str, Any] = json.loads(line)
            self.pid = answer.get("pid", self.pid)
            self.about = answer.get("about", self.about)
            self.code = answer.get("exit", self.code)


class ForkServer:
    """A fork server that this process has started.

    Attributes:
        socket: Where it is asked.
    """

    def __init__(
        self, python: Path, modules: tuple[str, ...], environment: Mapping[str, str], *, log: Path
    ) -> None:
        """Start it, in the main thread: it does not outlive the thread while it imports.

        Args:
            python: Interpreter of its environment.
            modules: What it imports for all that it forks; none where they do it themselves.
            environment: All of its environment variables.
            log: Written anew with what its imports say.
        """
        self._folder = scratch_folder()
        self.socket = Path(self._folder.name, "forks")
        log.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, log.open("wb") as output:
            # Who connects while it imports is answered afterwards.
            listener.bind(str(self.socket))
            listener.listen(128)
            self._child = subprocess.Popen(
                # -P: the folder of the program holds modules of other names, such as vllm.
                (str(python), "-P", str(_PROGRAM), str(listener.fileno()), *modules),
                env={**environment, "TMPDIR": self._folder.name},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def stop(self) -> None:
        """End it, and all that it started."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            # What it has started has a folder. Without one it may be importing, and would not hear.
            started = Path(self._folder.name).glob(f"{fork_server.FOLDER}*")
            # Or it has ended by now, and taken its folder away.
            with contextlib.suppress(subprocess.TimeoutExpired, FileNotFoundError):
                self._child.wait(_STOP_SECONDS if any(started) else 0.2)
        finally:
            self._child.kill()
            self._child.wait()
            self._folder.cleanup()


_own: dict[tuple[Path, tuple[str, ...]], ForkServer] = {}


def fork_server_socket(
    python: Path, modules: tuple[str, ...], environment: Mapping[str, str], *, log: Path
) -> Path:
    """The socket of a fork server: that of the run, or this process's own, started if need be.

    Any fork server starts any program; one of another environment saves no imports.

    Args:
        python: As `ForkServer` takes it.
        modules: As `ForkServer` takes them.
        environment: As `ForkServer` takes it.
        log: As `ForkServer` takes it.
    """
    if (shared := shared_socket()) is not None:
        return shared
    own = _own.get((python, modules))
    if own is None or not own.runs:
        own = ForkServer(python, modules, environment, log=log)
        _own[python, modules] = own
        atexit.register(own.stop)
    return own.socket


def share(server: ForkServer) -> None:
    """Let this process, and all that it starts, use a fork server; it ends with this process."""
    os.environ[VARIABLE] = str(server.socket)
    atexit.register(server.stop)


def shared_socket() -> Path | None:
    """The socket of the run's fork server; None if there is none here, or none any more."""
    path = os.environ.get(VARIABLE)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path or "")
        except OSError:
            return None
    return Path(path) if path else None


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder for the socket of a fork server and what its processes leave in their TMPDIR.

    Where the caller's own TMPDIR is so deep that a socket in it would have no name, it is below
    /tmp.
    """
    here = tempfile.gettempdir()
    names = len("/scion-12345678/process-12345678/") + _SOCKET_NAME
    deep = len(os.fsencode(here)) + names > _SOCKET_PATH
    return tempfile.TemporaryDirectory(
        prefix="scion-", dir="/tmp" if deep else here, ignore_cleanup_errors=True
    )
