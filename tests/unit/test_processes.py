"""Fork servers and what they start: real processes of this interpreter, without an engine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from scion.engines import fork_server
from scion.engines.processes import (
    VARIABLE,
    ForkServer,
    Process,
    ProcessRequest,
    fork_server_socket,
)

PYTHON = Path(sys.executable)
# Nothing that this process, or a process of the standard library, has imported by itself.
MODULE = "xdrlib_of_tests"
# Tells about itself, then waits as long as it is told to by its input.
TELL = """
import json, os, signal, subprocess, sys, time
imported = "xdrlib_of_tests" in sys.modules
child = subprocess.Popen(["sleep", "100"]) if "--child" in sys.argv else None
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join(os.environ["TMPDIR"], "left"), "w").close()
about = {
    "pid": os.getpid(), "imported": imported, "arguments": sys.argv[1:], "folder": os.getcwd(),
    "temporary": os.environ["TMPDIR"], "environment": dict(os.environ),
    "child": child and child.pid, "session": os.getsid(0),
}
print(json.dumps(about), flush=True)
print("an error", file=sys.stderr, flush=True)
sys.exit(int(sys.stdin.readline() or 7))
"""


@pytest.fixture
def modules(tmp_path: Path) -> Mapping[str, str]:
    """Environment variables with which the module of the tests is found."""
    folder = tmp_path / "modules"
    folder.mkdir()
    # As vLLM does.
    said = "import os\nos.environ['VLLM_SET_BY_IMPORT'] = '1'\nprint('imported')\n"
    (folder / f"{MODULE}.py").write_text(said)
    (folder / "tell.py").write_text(TELL)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture
def forks(modules: Mapping[str, str], tmp_path: Path) -> Iterator[ForkServer]:
    server = ForkServer(PYTHON, (MODULE,), modules, log=tmp_path / "imports.log")
    yield server
    server.stop()


class Talk:
    """A process that tells about itself, with its three descriptors."""

    def __init__(self, socket: Path, environment: Mapping[str, str], *arguments: str, **how: Any):
        theirs, self.input = os.pipe()
        output, answered = os.pipe()
        errors, complained = os.pipe()
        command = (str(how.pop("python", PYTHON)), "-m", "tell", *arguments)
        self.process = Process(
            socket, ProcessRequest(command, environment, **how), theirs, answered, complained
        )
        for descriptor in (theirs, answered, complained):
            os.close(descriptor)
        self.output, self.errors = os.fdopen(output), os.fdopen(errors)

    def about(self) -> dict[str, Any]:
        return json.loads(self.output.readline())

    def end(self, code: int) -> None:
        os.write(self.input, f"{code}\n".encode())


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_fork_has_what_was_imported(
    forks: ForkServer, modules: Mapping[str, str], tmp_path: Path
):
    environment = {**modules, "OWN": "this"}
    talk = Talk(forks.socket, environment, "a b", "c", folder=str(tmp_path))
    about = talk.about()
    assert about["imported"]
    assert about["arguments"] == ["a b", "c"]
    assert about["folder"] == str(tmp_path)
    # A session of its own, so that no terminal's Ctrl-C reaches it.
    assert about["session"] == about["pid"]
    assert about["environment"].pop("VLLM_SET_BY_IMPORT") == "1"
    temporary = about["environment"].pop("TMPDIR")
    assert Path(temporary).is_relative_to(forks.socket.parent)
    assert about["environment"] == {k: v for k, v in environment.items() if k != "TMPDIR"}
    assert talk.errors.readline() == "an error\n"
    assert "tell a b c" in " ".join(psutil.Process(about["pid"]).cmdline()) or not _names()
    assert talk.process.poll() is None
    assert talk.process.pid == about["pid"]
    talk.end(3)
    assert talk.process.wait() == 3
    assert not Path(temporary).exists()


def _names() -> bool:
    """Whether this environment has what names a process after its command."""
    command = [sys.executable, "-c", "import setproctitle"]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_an_environment_is_the_same_through_a_link(
    forks: ForkServer, modules: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "linked").symlink_to(PYTHON.parents[1])
    talk = Talk(
        forks.socket, modules, python=tmp_path / "linked" / PYTHON.relative_to(PYTHON.parents[1])
    )
    assert talk.about()["imported"]


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "VLLM_PLUGINS", "LD_LIBRARY_PATH"])
def test_another_environment_imports_by_itself(
    forks: ForkServer, modules: Mapping[str, str], name: str
):
    talk = Talk(forks.socket, {**modules, name: "3"})
    about = talk.about()
    assert not about["imported"]
    assert "VLLM_SET_BY_IMPORT" not in about["environment"]
    assert about["environment"][name] == "3"
    talk.end(0)
    assert talk.process.wait() == 0


def test_any_program_is_started(forks: ForkServer, modules: Mapping[str, str], tmp_path: Path):
    with (tmp_path / "said").open("w+") as said, open(os.devnull) as nothing:
        request = ProcessRequest(("/bin/sh", "-c", "echo $0; kill -9 $$", "word"), modules)
        process = Process(forks.socket, request, nothing.fileno(), said.fileno(), said.fileno())
        assert process.wait() == -signal.SIGKILL
        said.seek(0)
        assert said.read() == "word\n"


def test_a_program_that_is_not_there(forks: ForkServer, modules: Mapping[str, str], tmp_path: Path):
    with (tmp_path / "said").open("w+") as said, open(os.devnull) as nothing:
        request = ProcessRequest((str(tmp_path / "nowhere"),), modules)
        process = Process(forks.socket, request, nothing.fileno(), said.fileno(), said.fileno())
        assert process.wait() == 1
        said.seek(0)
        assert "FileNotFoundError" in said.read()
    # The next one is served.
    assert Talk(forks.socket, modules).about()["imported"]


@pytest.mark.parametrize("arguments", [["--child"], ["--child", "--deaf"]])
def test_what_is_stopped_is_gone_with_all_that_it_started(
    forks: ForkServer, modules: Mapping[str, str], arguments: list[str]
):
    talk, other = (Talk(forks.socket, modules, *arguments) for _ in range(2))
    about, left = talk.about(), other.about()
    talk.process.stop()
    assert is_gone(about["pid"])
    # It is sent SIGKILL before the process is known to have ended; the kernel takes a moment.
    wait_until(lambda: is_gone(about["child"]), 5)
    assert not Path(about["temporary"]).exists()
    assert not is_gone(left["pid"])
    forks.stop()
    assert is_gone(left["pid"])
    wait_until(lambda: is_gone(left["child"]), 5)
    assert not forks.socket.parent.exists()


OWNER = """
import os, sys, time
from pathlib import Path
from scion.engines.processes import ForkServer, Process, ProcessRequest
environment = dict(os.environ)
server = ForkServer(Path(sys.executable), tuple(sys.argv[1:]), environment, log=Path("imports.log"))
request = ProcessRequest((sys.executable, "-m", "tell", "--child"), environment)
process = Process(server.socket, request, 0, 1, 2)
print(server._child.pid, flush=True)
time.sleep(100)
"""


def owner(modules: Mapping[str, str], folder: Path, *imports: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join([modules["PYTHONPATH"], str(Path(fork_server.__file__).parents[2])])
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, *imports],
        env={**modules, "PYTHONPATH": path},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_nothing_outlives_an_owner_that_is_killed(modules: Mapping[str, str], tmp_path: Path):
    with owner(modules, tmp_path, MODULE) as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        about = json.loads(process.stdout.readline())
        process.kill()
    wait_until(lambda: all(map(is_gone, (server, about["pid"], about["child"]))))
    # The owner's folder as well.
    assert not Path(about["temporary"]).parent.exists()


def test_nothing_outlives_an_owner_that_is_killed_during_the_imports(
    modules: Mapping[str, str], tmp_path: Path
):
    Path(modules["PYTHONPATH"], "slow.py").write_text("import time; time.sleep(100)")
    with owner(modules, tmp_path, "slow") as process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        process.kill()
    wait_until(lambda: is_gone(server), 5)


def test_what_is_stopped_while_it_starts_is_known_to_be_gone(
    forks: ForkServer, modules: Mapping[str, str]
) -> None:
    Talk(forks.socket, modules).about()
    for _ in range(20):
        talk = Talk(forks.socket, modules)
        talk.process.stop()
        assert talk.process.code is not None
        assert talk.process.pid is None or is_gone(talk.process.pid)


def test_a_stop_does_not_wait_for_imports(modules: Mapping[str, str], tmp_path: Path):
    Path(modules["PYTHONPATH"], "slow.py").write_text("import time; time.sleep(100)")
    server = ForkServer(PYTHON, ("slow",), modules, log=tmp_path / "imports.log")
    talk = Talk(server.socket, modules)
    begin = time.monotonic()
    talk.process.stop()
    server.stop()
    assert time.monotonic() - begin < 5
    assert talk.output.read() == ""
    assert not server.socket.parent.exists()


CLIENT = """
import os, sys, time
from pathlib import Path
from scion.engines.processes import Process, ProcessRequest
process = Process(
    Path(sys.argv[1]),
    ProcessRequest((sys.executable, "-m", "tell", "--child"), dict(os.environ)),
    *(0, 1, 2),
)
time.sleep(100)
"""


def test_nothing_outlives_a_client_that_is_killed(
    forks: ForkServer, modules: Mapping[str, str], tmp_path: Path
):
    path = os.pathsep.join([modules["PYTHONPATH"], str(Path(fork_server.__file__).parents[2])])
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(forks.socket)],
        env={**modules, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout is not None
        about = json.loads(client.stdout.readline())
        client.kill()
    wait_until(lambda: is_gone(about["pid"]) and is_gone(about["child"]))
    assert Talk(forks.socket, modules).about()["imported"]


def test_a_fork_server_that_is_killed_takes_all_with_it(
    forks: ForkServer, modules: Mapping[str, str]
):
    talk = Talk(forks.socket, modules)
    about = talk.about()
    parent = psutil.Process(about["pid"]).parent()
    assert parent is not None
    parent.kill()
    assert talk.process.wait() == -signal.SIGKILL
    wait_until(lambda: is_gone(about["pid"]))
    assert Talk(forks.socket, modules).process.wait() == -signal.SIGKILL


def test_a_server_is_kept_for_who_asks_for_the_same(forks: ForkServer, modules: Mapping[str, str]):
    first = Talk(forks.socket, modules, server="one", about={"port": 1})
    pid = first.about()["pid"]
    # While somebody has it, another gets its own.
    second = Talk(forks.socket, modules, server="one", about={"port": 2})
    assert second.about()["pid"] != pid
    first.process.keep()
    third = Talk(forks.socket, modules, server="two", about={"port": 3})
    assert third.about()["pid"] != pid
    fourth = Talk(forks.socket, modules, server="one", about={"port": 4})
    wait_until(lambda: fourth.process.poll() is None and fourth.process.pid is not None)
    assert fourth.process.pid == pid
    assert fourth.process.about == {"port": 1}
    fourth.process.keep()
    fifth = Talk(forks.socket, modules, server="one", fresh=True, about={"port": 5})
    fresh = fifth.about()["pid"]
    assert fresh != pid
    assert not is_gone(pid)
    # What is to be alone waits until those that are kept are gone, and only those.
    alone = Talk(forks.socket, modules, server="three", alone=True)
    alone.about()
    assert is_gone(pid)
    assert not is_gone(fresh)


def test_a_server_that_nobody_may_have_is_not_kept(forks: ForkServer, modules: Mapping[str, str]):
    talk = Talk(forks.socket, modules)
    about = talk.about()
    talk.process.keep()
    wait_until(lambda: is_gone(about["pid"]))


def test_a_kept_server_ends_when_nobody_asks(modules: Mapping[str, str], tmp_path: Path):
    program = tmp_path / "impatient.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(Path(fork_server.__file__).parent)!r})\n"
        "import fork_server; fork_server._KEPT_SECONDS = 0.3; fork_server.main()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scion.engines.processes._PROGRAM", program)
        server = ForkServer(PYTHON, (), modules, log=tmp_path / "imports.log")
    talk = Talk(server.socket, modules, server="one")
    about = talk.about()
    talk.process.keep()
    wait_until(lambda: is_gone(about["pid"]))
    server.stop()


def test_the_runs_fork_server_is_used_where_it_answers(
    forks: ForkServer, modules: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, str(forks.socket))
    log = tmp_path / "own.log"
    assert fork_server_socket(PYTHON, (), modules, log=log) == forks.socket
    assert not log.exists()
    # As on another machine.
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    own = fork_server_socket(PYTHON, (), modules, log=log)
    assert own != forks.socket
    assert fork_server_socket(PYTHON, (), modules, log=log) == own
    talk = Talk(own, modules)
    assert not talk.about()["imported"]
    talk.process.stop()


def test_a_deep_folder_for_temporary_files(
    modules: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A socket's path is 107 bytes at most."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    server = ForkServer(PYTHON, (), modules, log=tmp_path / "imports.log")
    about = Talk(server.socket, modules).about()
    assert len(about["temporary"]) + 40 < 107
    server.stop()
    assert not Path(about["temporary"]).exists()
