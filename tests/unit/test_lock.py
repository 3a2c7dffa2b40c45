"""Neutral locks: nothing of a host is left in them, and uv.lock comes back byte for byte."""

import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import lock
from lock import Index, LockError

INDEX = Index("https://index.example/simple", "https://files.example/packages/")
FILE = f"01/ab/{'0' * 60}/some_package-1.0-py3-none-any.whl"
LOCK = f"""\
[[package]]
name = "some-package"
source = {{ registry = "https://index.example/simple" }}
wheels = [
    {{ url = "https://files.example/packages/{FILE}", hash = "sha256:00", size = 1 }},
]
"""


@pytest.fixture(autouse=True)
def no_index_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "SCION_FILES_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def mirror() -> Iterator[str]:
    """An index whose page of any package links to FILE, two folders up."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'<a href="../../files/{FILE}#sha256=00">wheel</a>'.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    server.server_close()


def test_a_lock_round_trips() -> None:
    neutral = lock.strip(LOCK, INDEX)
    assert 'registry = "pypi"' in neutral
    assert f'url = "mirror://pypi/../{FILE}"' in neutral
    assert "example" not in neutral
    assert lock.expand(neutral, INDEX) == LOCK


@pytest.mark.parametrize(
    "line",
    [
        '{ url = "https://elsewhere.example/a.whl" }',
        '{ registry = "https://elsewhere.example/simple" }',
        '{ url = "mirror://pypi/../../../etc/passwd" }',
        '{ git = "ssh://host.example/repository" }',
    ],
)
def test_an_address_that_is_left_is_refused(line: str) -> None:
    with pytest.raises(LockError, match="1 addresses") as caught:
        lock.strip(LOCK + line, INDEX)
    assert line.split('"')[1] in str(caught.value)


@pytest.mark.parametrize("folder", lock.ENVIRONMENTS, ids=str)
def test_the_locks_name_no_host(folder: Path) -> None:
    text = (lock.ROOT / folder / "uv.lock.neutral").read_text()
    assert lock.strip(text, INDEX) == text
    assert text.count("://") == text.count('url = "mirror://pypi/../')


def test_the_locks_that_uv_reads_are_the_neutral_ones() -> None:
    index = lock.find_index((lock.ROOT / "uv.lock.neutral").read_text())
    for folder in lock.ENVIRONMENTS:
        neutral = (lock.ROOT / folder / "uv.lock.neutral").read_text()
        assert (lock.ROOT / folder / "uv.lock").read_text() == lock.expand(neutral, index)


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"])
def test_a_mirror_is_asked_where_its_files_are(
    name: str, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, mirror + "/")
    neutral = lock.strip(LOCK, INDEX)
    assert lock.find_index(neutral) == Index(mirror, mirror.replace("simple", "files/"))


def test_a_mirror_that_does_not_say_is_an_error(
    mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"corporate={mirror}")
    neutral = lock.strip(LOCK, INDEX).replace("01/ab/", "02/ab/")
    with pytest.raises(LockError, match="does not say where its files are") as caught:
        lock.find_index(neutral)
    assert f"{mirror}/some-package/" in str(caught.value)
    monkeypatch.setenv("SCION_FILES_URL", "https://files.example/x")
    assert lock.find_index(neutral) == Index(mirror, "https://files.example/x/")


class TestLocksAndProjects:
    """uv's own check of each lock against its pyproject.toml, on a copy to change."""

    @pytest.fixture
    def copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for folder in (*lock.ENVIRONMENTS, *lock.LOCAL_PACKAGES):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for name in ("pyproject.toml", "uv.lock.neutral", "README.md"):
                if (lock.ROOT / folder / name).exists():
                    shutil.copy(lock.ROOT / folder / name, tmp_path / folder)
        monkeypatch.setattr(lock, "ROOT", tmp_path)
        return tmp_path

    def test_they_fit(self, copy: Path) -> None:
        lock.check_all()

    @pytest.mark.parametrize(
        ("file", "before", "after"),
        [
            ("pyproject.toml", "nvidia-modelopt==0.47.0", "nvidia-modelopt==0.46.0"),
            ("envs/serve-cuda/pyproject.toml", "vllm==0.32.0", "vllm==0.31.0"),
            ("uv.lock.neutral", 'specifier = "==0.47.0"', 'specifier = "==0.46.0"'),
            ("envs/evaluate/uv.lock.neutral", 'name = "lm-eval"\nversion = "', None),
        ],
    )
    def test_a_pin_that_is_changed_by_hand_is_refused(
        self, file: str, before: str, after: str | None, copy: Path
    ) -> None:
        text = (copy / file).read_text()
        assert before in text
        (copy / file).write_text(text.replace(before, after or f"{before}9"))
        neutral = (copy / file).with_name("uv.lock.neutral").relative_to(copy)
        with pytest.raises(LockError, match=f"{neutral} does not fit its pyproject.toml"):
            lock.check_all()


def test_uv_is_not_led_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", "/elsewhere")
    monkeypatch.setenv("UV_LOCKED", "1")
    monkeypatch.setenv("UV_CACHE_DIR", "/kept")
    environment = lock.uv_environment()
    assert "UV_PROJECT_ENVIRONMENT" not in environment
    assert "UV_LOCKED" not in environment
    assert environment["UV_CACHE_DIR"] == "/kept"
    assert environment["UV_PYTHON_DOWNLOADS"] == "never"


def test_make_help_lists_every_target() -> None:
    text = subprocess.run(
        ["make", "help"], cwd=lock.ROOT, check=True, capture_output=True, text=True
    ).stdout
    listed = {line.split()[1] for line in text.splitlines()}
    wanted = {"setup", "run", "test", "check", "format", "lock", "bench", "clean"}
    assert listed >= wanted
