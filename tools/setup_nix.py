"""Have a Nix to evaluate the flake with, for the tests, without root and without /nix.

A Nix on the PATH is taken as it is. Else Debian's and Ubuntu's package is unpacked into .tools/nix
(2 MB, and what it is linked to): downloaded by apt, which checks its signature, into folders of its
own, so that nothing of the system's changes. Elsewhere there is none, and the tests that need it
say so.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lock

FOLDER = lock.TOOLS / "nix"
PROGRAM = FOLDER / "bin/nix"
_WRAPPER = """\
#!/bin/sh
export LD_LIBRARY_PATH="{libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "{program}" "$@"
"""


def find_nix() -> Path | None:
    """The Nix that tests run: of SCION_NIX, of the PATH, or unpacked here."""
    named = os.environ.get("SCION_NIX") or shutil.which("nix")
    if named:
        return Path(named)
    return PROGRAM if PROGRAM.exists() else None


def install_nix() -> None:
    """Unpack one, where there is none and apt can be asked; say so if that fails."""
    if find_nix() or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return
    try:
        _unpack()
    except subprocess.CalledProcessError as error:
        print(
            f"setup: no Nix: apt ended with {error.returncode}; its message stands above\n"
            "setup: the tests of the flake will be skipped",
            file=sys.stderr,
        )


def _unpack() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    state, cache, root = FOLDER / "state", FOLDER / "cache", FOLDER / "root"
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
    package = ["install", "--download-only", "--no-install-recommends", "--yes", "nix-bin"]
    subprocess.run([*apt, *package], check=True)
    for archive in (cache / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(root)], check=True)
    libraries = {str(file.parent) for file in (root / "usr/lib").rglob("*.so*")}
    PROGRAM.parent.mkdir()
    program = root / "usr/bin/nix"
    PROGRAM.write_text(_WRAPPER.format(libraries=":".join(sorted(libraries)), program=program))
    PROGRAM.chmod(0o755)
    shutil.rmtree(state)
    shutil.rmtree(cache)
