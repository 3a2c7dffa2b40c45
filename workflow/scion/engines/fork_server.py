"""Starts processes, and forks those that run what it has imported: vLLM is imported once for all.

`python -P fork_server.py <descriptor of a listening socket> <module …>`, with standard input a pipe
of its owner, imports the modules and then starts what it is asked for, one connection a process.
Importing vLLM takes four fifths of a small model's start; a fork has it already. Standard library
only: it is run by the interpreter of the environment whose modules it imports, and nothing of Scion
is there.

A request is one line of JSON, sent with the three descriptors that become standard input, output
and error (`scion.engines.processes` is the client):

    {"arguments": [interpreter or program, …], "environment": {name: value}, "folder": path,
     "server": key | null, "fresh": bool, "alone": bool, "about": any JSON}

The process works in `folder`, and has a TMPDIR of its own, which is removed when it has ended.
Answers are lines:

    {"pid": n, "about": …}     it runs; `about` is that of the request that started it
    {"exit": code}             it has ended; minus the number of a signal that killed it

The client ends a process by closing its connection, as it does when it is killed itself: SIGTERM
twice (vLLM swallows one that comes while it loads), then SIGKILL for the whole process group. With
`{"keep": true}` sent before, a server stays for the next request with the same key, and ends if
none comes in a while; a request for a `fresh` one does not get it. What is to start `alone` waits
until those that are kept have ended.

When standard input ends, its owner has ended or was killed, and all that runs is ended.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_TERMS = 2
# A front end with requests in flight does not end by itself; its engine is gone at once.
_TERM_SECONDS = 3.0
_KEPT_SECONDS = 60.0
# Of a request, the most that is read at once.
_REQUEST_BYTES = 1 << 20
# What the folders of processes begin with.
FOLDER = "process-"
# What modules read while they are imported. With another value of one of these, a process imports
# them itself.
_READ_BY_IMPORTS = (
    *("CUDA_", "GOMP_", "HF_", "KMP_", "LD_", "LC_", "MKL_", "OMP_", "OPENBLAS_"),
    *("PYTHON", "TORCH", "TRITON_", "TRANSFORMERS_", "VLLM_"),
)
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


@dataclass
class _Process:
    """A process that runs.

    Attributes:
        pid: It leads a process group.
        folder: Its TMPDIR.
        request: What it was asked for by.
        connection: Of the client that has it; None for one that is kept.
        deadline: When to go on ending it, or to end one that is kept, on the monotonic clock.
        terms: SIGTERMs sent so far.
    """

    pid: int
    folder: str
    request: Mapping[str, Any]
    connection: socket.socket | None
    deadline: float | None = None
    terms: int = 0

    @property
    def is_kept(self) -> bool:
        return self.connection is None and self.terms == 0 and self.deadline is not None


@dataclass
class _Client:
    """A connection without a process: its request is on the way."""

    connection: socket.socket
    received: bytes = b""
    descriptors: list[int] = field(default_factory=list[int])


class _Loop:
    """The loop. In a forked process `run` returns what is to be run there."""

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        """Watch the socket and standard input.

        Args:
            listener: The socket.
            environment: The environment variables before anything was imported.
        """
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._processes: list[_Process] = []
        self._clients: list[_Client] = []
        self._environment = environment
        self._ending = False
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(0, selectors.EVENT_READ, self._owner)
        # Not every Python has pidfd_open: it says when a process of ours ends by a byte.
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._reap)

    def run(self) -> Mapping[str, Any] | None:
        """Serve until the owner has ended; in a forked process, return its request."""
        while not self._ending or self._processes:
            deadlines = [one.deadline for one in self._processes if one.deadline is not None]
            wait = max(min(deadlines) - time.monotonic(), 0) if deadlines else None
            for key, _ in self._selector.select(wait):
                handle: Callable[[], Mapping[str, Any] | None] = key.data
                # An earlier one of the same round may have closed it.
                if key.fd in self._selector.get_map() and (request := handle()) is not None:
                    return request
            for process in list(self._processes):
                if process.deadline is not None and process.deadline <= time.monotonic():
                    self._end(process)
        return None

    def _owner(self) -> None:
        if os.read(0, 4096):
            return
        self._selector.unregister(0)
        self._selector.unregister(self._listener)
        self._ending = True
        for process in list(self._processes):
            if process.terms == 0:
                self._end(process)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 4096):
                pass
        for process in list(self._processes):
            if _has_ended(process.pid):
                self._ended(process)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        client = _Client(connection)
        self._clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(client))

    def _receive(self, client: _Client) -> Mapping[str, Any] | None:
        raw, descriptors, _, _ = socket.recv_fds(client.connection, _REQUEST_BYTES, 3)
        client.received += raw
        client.descriptors += descriptors
        if raw and not client.received.endswith(b"\n"):
            return None
        self._selector.unregister(client.connection)
        self._clients.remove(client)
        try:
            if not raw or self._ending or _has_left(client.connection):
                client.connection.close()
                return None
            return self._start(client)
        except (OSError, ValueError) as error:
            # One that can't be started, for want of memory or room, ends no other.
            print(f"can't be started: {error}", file=sys.stderr, flush=True)
            client.connection.close()
            return None
        finally:
            for descriptor in client.descriptors:
                os.close(descriptor)

    def _start(self, client: _Client) -> Mapping[str, Any] | None:
        request: dict[str, Any] = json.loads(client.received)
        same = [
            one
            for one in self._processes
            if one.is_kept and one.request["server"] == request["server"] and not request["fresh"]
        ]
        if same:
            process = same[0]
            process.connection, process.deadline = client.connection, None
        else:
            if request["alone"]:
                self._end_kept()
            folder = tempfile.mkdtemp(prefix=FOLDER)
            # What is not written yet would be written by both.
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._become(client)
                return {**request, "environment": {**request["environment"], "TMPDIR": folder}}
            process = _Process(pid, folder, request, client.connection)
            self._processes.append(process)
        self._selector.register(
            client.connection, selectors.EVENT_READ, lambda: self._told(process)
        )
        _tell(process, {"pid": process.pid, "about": process.request["about"]})
        return None

    def _become(self, client: _Client) -> None:
        """In a forked process: take the three descriptors, and let go of all that is the loop's."""
        # A session of its own: no terminal's signals, and a process group.
        os.setsid()
        for target, descriptor in enumerate(client.descriptors):
            os.dup2(descriptor, target)
        others = [client, *self._clients]
        connections = [*(one.connection for one in others), self._listener]
        connections += [one.connection for one in self._processes if one.connection is not None]
        for connection in connections:
            connection.close()
        for descriptor in (one for other in self._clients for one in other.descriptors):
            os.close(descriptor)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._woken)
        os.close(self._waker)
        self._selector.close()

    def _told(self, process: _Process) -> None:
        connection = process.connection
        assert connection is not None
        try:
            raw = connection.recv(4096)
        except OSError:
            raw = b""
        self._selector.unregister(connection)
        if raw and process.request["server"] is not None and not self._ending:
            connection.close()
            process.connection = None
            process.deadline = time.monotonic() + _KEPT_SECONDS
        else:
            # It is told the exit code.
            self._end(process)

    def _end_kept(self) -> None:
        """End the servers that are kept, and wait for it: what comes next is to be alone."""
        kept = [process for process in self._processes if process.is_kept]
        for process in kept:
            while process in self._processes:
                self._end(process)
                deadline = time.monotonic() + _TERM_SECONDS
                while time.monotonic() < deadline and not _has_ended(process.pid):
                    time.sleep(0.02)
                if _has_ended(process.pid):
                    self._ended(process)

    def _end(self, process: _Process) -> None:
        """The next step of ending a process."""
        process.terms += 1
        with contextlib.suppress(ProcessLookupError):
            if process.terms <= _TERMS:
                os.kill(process.pid, signal.SIGTERM)
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.deadline = time.monotonic() + _TERM_SECONDS

    def _ended(self, process: _Process) -> None:
        # What it started may be left, and hold memory, or a GPU, for good. Until it is reaped, no
        # other process group can have its number.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _, status = os.waitpid(process.pid, 0)
        self._processes.remove(process)
        shutil.rmtree(process.folder, ignore_errors=True)
        if process.connection is not None:
            _tell(process, {"exit": os.waitstatus_to_exitcode(status)})
            with contextlib.suppress(KeyError):
                self._selector.unregister(process.connection)
            process.connection.close()
            process.connection = None

    def forks(self, request: Mapping[str, Any]) -> bool:
        """Whether a request's process may run with what was imported here."""

        def read(environment: Mapping[str, str]) -> dict[str, str]:
            return {k: v for k, v in environment.items() if k.startswith(_READ_BY_IMPORTS)}

        program, *arguments = request["arguments"]
        return (
            _interpreter(os.path.join(request["folder"], program)) == _interpreter(sys.executable)
            and arguments[:1] in (["-m"], ["-P"])
            and read(self._environment) == read(request["environment"])
        )


def _interpreter(path: str) -> tuple[str, str]:
    """An environment's folder, however it is reached, and the interpreter's name in it."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.realpath(folder), name


def _tell(process: _Process, answer: Mapping[str, Any]) -> None:
    assert process.connection is not None
    with contextlib.suppress(OSError):
        process.connection.sendall(json.dumps(answer).encode() + b"\n")


def _has_ended(pid: int) -> bool:
    """Whether a process of ours has ended; it is not reaped, and keeps its number."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _has_left(connection: socket.socket) -> bool:
    """Whether the client was gone before its request was read."""
    with contextlib.suppress(BlockingIOError):
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False


def _run(request: Mapping[str, Any], imported: Mapping[str, str] | None) -> None:
    """Be the process that was asked for.

    Args:
        request: What was asked for: `python -m module …`, `python -P file …`, or a program.
        imported: Environment variables that the imports have set; None for a process that does not
            run with them.
    """
    _die_with_parent(signal.SIGTERM)
    os.chdir(request["folder"])
    program, *arguments = request["arguments"]
    environment = request["environment"]
    if imported is None:
        os.execve(program, [program, *arguments], environment)
    with contextlib.suppress(ImportError):
        title: Any = importlib.import_module("setproctitle")
        # Tools that list processes see the command. It finds its place beside the environment that
        # the process began with, so that must still be there.
        title.setproctitle(" ".join(request["arguments"]))
    os.environ.clear()
    os.environ.update({**imported, **environment})
    tempfile.tempdir = None
    option, target, *rest = arguments
    sys.argv = [target, *rest]
    if option == "-m":
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(target, run_name="__main__")


def _die_with_parent(number: int) -> None:
    """Let the kernel send this process a signal when its parent ends; 0 for none."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, number, 0, 0, 0)


def main() -> None:
    """Import the modules, then serve."""
    descriptor, *modules = sys.argv[1:]
    before = dict(os.environ)
    # While it imports it does not look at standard input.
    _die_with_parent(signal.SIGKILL)
    if select.select([0], [], [], 0)[0]:
        # It has ended before that; it never writes.
        return
    with socket.socket(fileno=int(descriptor)) as listener:
        for module in modules:
            importlib.import_module(module)
        _die_with_parent(0)
        # What was imported stays: a collection in a fork would copy its pages.
        gc.collect()
        gc.freeze()
        server = _Loop(listener, before)
        request = server.run()
    if request is None:
        # The owner, who made it, may have been killed.
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    else:
        # vLLM sets some while it is imported.
        imported = {k: v for k, v in os.environ.items() if before.get(k) != v}
        _run(request, imported if server.forks(request) else None)


if __name__ == "__main__":
    main()
