"""Unpack Debian's packages into a folder, for the tests, without root.

apt downloads them, with what they need that is not installed, and checks their signatures; it works
in folders of its own, so that nothing of the system's changes. A program from them is started by a
small script that names the libraries beside it to the loader, and to nothing that the program
starts.
"""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_LOADER = "/lib64/ld-linux-x86-64.so.2"
_STARTER = """\
#!/bin/sh
exec {loader} --library-path "{libraries}" --argv0 "$0" "{program}" "$@"
"""


def can_unpack() -> bool:
    """Whether this is a Debian, or one of those that are made from it."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


def unpack(packages: Iterable[str], folder: Path) -> Path:
    """Unpack packages and what they need.

    Args:
        packages: Their names.
        folder: A folder, which is cleared before.

    Returns:
        The folder in it that stands for `/`.

    Raises:
        subprocess.CalledProcessError: apt or dpkg-deb failed; it has said why.
    """
    shutil.rmtree(folder, ignore_errors=True)
    state, cache, root = folder / "state", folder / "cache", folder / "root"
    (state / "lists/partial").mkdir(parents=True)
    (cache / "archives/partial").mkdir(parents=True)
    options = {
        "Dir::State": state,
        # What is installed already is not downloaded.
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": cache,
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-qq", *(word for key in options for word in ("-o", f"{key}={options[key]}"))]
    subprocess.run([*apt, "update"], check=True)
    download = ["install", "--download-only", "--no-install-recommends", "--yes"]
    subprocess.run([*apt, *download, *packages], check=True)
    for archive in (cache / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(root)], check=True)
    shutil.rmtree(state)
    shutil.rmtree(cache)
    return root


def libraries(root: Path) -> str:
    """The folders with shared libraries below a folder, as the loader takes them."""
    return ":".join(sorted({str(file.parent) for file in (root / "usr/lib").rglob("*.so*")}))


def write_starter(starter: Path, program: Path, root: Path) -> None:
    """Write the script that starts a program with the libraries of `root`."""
    starter.parent.mkdir(parents=True, exist_ok=True)
    text = _STARTER.format(loader=_LOADER, libraries=libraries(root), program=program)
    starter.write_text(text)
    starter.chmod(0o755)
