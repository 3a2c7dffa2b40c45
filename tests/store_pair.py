"""Artifacts in stores that share nothing but a store elsewhere, and processes that move them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.store.store import Store
from scion.common.digest import digest_file

# Takes part in the code digest of what is made here; any stage would do.
STAGE = "extract_text"
# Small ranges and short waits, so that a small file has many of them.
_SCRIPT = """
import sys
from pathlib import Path
from scion.artifacts.artifact import Artifact
from scion.artifacts.manifest import read_manifest
from scion.artifacts.store import objects
from scion.artifacts.store.store import Store
from scion.common.errors import exit_on_error

action, recipe, folder, url = sys.argv[1:]
objects._RANGE, objects.RETRY_SECONDS = 1 << 16, (0.1, 0.1)
objects._S3_CONFIG["retries"]["total_max_attempts"] = 2

def main():
    store = Store.open([folder, url])
    if action == "pull":
        print(store.find(recipe).content)
    else:
        manifest = read_manifest(store.record(recipe))
        store.share(Artifact(store.place(manifest["content"]), manifest))

sys.exit(exit_on_error(main))
"""


def make(store: Store, files: Mapping[str, bytes], *, name: str = "one") -> Artifact:
    """Ask a store for an artifact of these files, which is made if nobody has it."""

    def build(draft: Draft) -> None:
        for path, raw in files.items():
            (draft.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (draft.folder / path).write_bytes(raw)

    return _ask(store, build, name)


def take(store: Store, *, name: str = "one") -> Artifact:
    """Ask a store for an artifact that somebody has made."""

    def build(draft: Draft) -> None:
        raise AssertionError(f"nothing was to be made in {draft.folder}")

    return _ask(store, build, name)


def _ask(store: Store, build: Callable[[Draft], None], name: str) -> Artifact:
    return remake(
        Output(store.folder.parent / "pointers" / f"{name}.json", store),
        stage=STAGE,
        inputs={},
        settings={"name": name},
        environment="sha256:tests",
        build=build,
    )


def same(first: Artifact, second: Artifact) -> None:
    """Assert that two artifacts, each in its store, have one manifest and its bytes."""
    assert first.folder != second.folder
    assert first.manifest == second.manifest
    for artifact in (first, second):
        found = sorted(path for path in artifact.folder.rglob("*") if path.is_file())
        assert [str(path.relative_to(artifact.folder)) for path in found] == sorted(artifact.files)
        for name, entry in artifact.files.items():
            assert digest_file(artifact.folder / name) == entry["sha256"]


def start(
    action: str, recipe: str, folder: Path, url: str, environment: Mapping[str, str]
) -> "subprocess.Popen[str]":
    """A process that pulls or pushes what a recipe gave."""
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, action, recipe, str(folder), url],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_when(process: "subprocess.Popen[str]", holds: Callable[[], bool]) -> None:
    """Kill a process by SIGKILL once something holds."""
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
