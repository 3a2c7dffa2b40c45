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

import debian
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
    if find_nix() or not debian.can_unpack():
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
    root = debian.unpack(["nix-bin"], FOLDER)
    program = root / "usr/bin/nix"
    PROGRAM.parent.mkdir()
    PROGRAM.write_text(_WRAPPER.format(libraries=debian.libraries(root), program=program))
    PROGRAM.chmod(0o755)
