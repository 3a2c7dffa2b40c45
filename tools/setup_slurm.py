"""Have a Slurm that the tests can start, without root: Debian's and Ubuntu's, in .tools/slurm.

    programs = setup_slurm.find_slurm()     the folder of its programs, or None

The packages take 5 MB and are unpacked, not installed: nothing of them runs but what a test starts,
and a Slurm that the machine has is left alone. Elsewhere there is none, and the test that needs it
says so.
"""

import subprocess
import sys
from pathlib import Path

import debian
import lock

FOLDER = lock.TOOLS / "slurm"
PROGRAMS = FOLDER / "bin"
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")


def find_slurm() -> Path | None:
    """The folder of the programs that were unpacked here."""
    return PROGRAMS if (PROGRAMS / "slurmctld").exists() else None


def plugins() -> Path:
    """The folder of Slurm's plugins."""
    (folder,) = {file.parent for file in (FOLDER / "root").rglob("auth_munge.so")}
    return folder


def install_slurm() -> None:
    """Unpack one, where there is none and apt can be asked; say so if that fails."""
    if find_slurm() or not debian.can_unpack():
        return
    try:
        root = debian.unpack(PACKAGES, FOLDER)
    except subprocess.CalledProcessError as error:
        print(
            f"setup: no Slurm: apt ended with {error.returncode}; its message stands above\n"
            "setup: the test of the cluster will be skipped",
            file=sys.stderr,
        )
        return
    for program in sorted([*root.glob("usr/bin/*"), *root.glob("usr/sbin/*")]):
        # The daemons are called slurmctld-wlm, slurmd-wlm and slurmstepd-wlm there.
        if program.is_file() and not program.is_symlink() and _is_binary(program):
            debian.write_starter(PROGRAMS / program.name.removesuffix("-wlm"), program, root)


def _is_binary(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(4) == b"\x7fELF"
