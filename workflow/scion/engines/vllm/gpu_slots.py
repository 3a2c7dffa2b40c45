"""Which GPUs a server or a stage may have: each is one's own, whichever run started it.

A server that vLLM starts takes its share of a GPU's memory at once, so two on one GPU end each
other. Runs on one machine know nothing of each other, so each GPU has a lock, which the kernel lets
go of with the process that holds it. Servers on different GPUs run at the same time. Locks have the
names that CUDA_VISIBLE_DEVICES gives the GPUs, so runs that share a machine must name them alike.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from scion.artifacts.store.locks import exclusive
from scion.common.errors import ScionError
from scion.common.progress import doing

VARIABLE = "CUDA_VISIBLE_DEVICES"
_LOOK_SECONDS = 1.0


def visible(inherited: Mapping[str, str]) -> list[str]:
    """The GPUs that a server started with these variables would see, as CUDA names them.

    Returns:
        Their indices or UUIDs; empty where there are none.
    """
    named = inherited.get(VARIABLE)
    if named is not None:
        return [part.strip() for part in named.split(",") if part.strip()]
    command = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        # A container may have the devices and no program that lists them.
        devices = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        return sorted(devices, key=int)
    return listed.split()


def require_gpus(count: int, gpus: Sequence[str]) -> None:
    """Refuse a server that wants more GPUs than there are.

    Args:
        count: How many it wants.
        gpus: Those that `visible` has found.

    Raises:
        ScionError: There are fewer.
    """
    if len(gpus) < count:
        raise ScionError(
            "the server wants more GPUs than there are",
            where=f"{VARIABLE}={os.environ.get(VARIABLE, '(not set)')}",
            expected=f"{count}, as tensor_parallel of the launch says",
            found=f"{len(gpus)}: {', '.join(gpus) or 'none'}",
            hint="lower tensor_parallel of the launch, or run where there are as many",
        )


@contextlib.contextmanager
def own_gpus(
    count: int, gpus: Sequence[str], *, folder: Path | None = None
) -> Generator[list[str]]:
    """Have so many GPUs while the block lasts; wait until as many are free.

    Args:
        count: How many.
        gpus: Those that there are, of which the first free ones are taken.
        folder: Where the locks are; by default one for all users of the machine.

    Yields:
        The GPUs.

    Raises:
        ScionError: There are fewer than that.
    """
    held = _wait(count, gpus, folder)
    try:
        yield list(held)
    finally:
        _release(held)


def hold_gpus(count: int, gpus: Sequence[str], *, folder: Path | None = None) -> list[str]:
    """As `own_gpus`, until this process ends, or the program that takes its place.

    Returns:
        The GPUs.
    """
    held = _wait(count, gpus, folder)
    for descriptor in held.values():
        os.set_inheritable(descriptor, True)
    return list(held)


def _wait(count: int, gpus: Sequence[str], folder: Path | None) -> dict[str, int]:
    """The locks of so many GPUs, once as many are free."""
    require_gpus(count, gpus)
    locks = folder or Path(tempfile.gettempdir()) / "scion-gpus"
    _make(locks)
    told = False
    while True:
        held = _take(count, gpus, locks)
        if len(held) == count:
            return held
        _release(held)
        if not told:
            told = True
            waiting = f"waiting for {count} of {len(gpus)} GPUs, which other servers have"
            print(waiting, file=sys.stderr, flush=True)
            doing(waiting)
        time.sleep(_LOOK_SECONDS)


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        # Other users lock the same GPUs.
        folder.chmod(0o777)


def _take(count: int, gpus: Sequence[str], folder: Path) -> dict[str, int]:
    """The locks of free GPUs, at most so many; nobody else takes any meanwhile."""
    held: dict[str, int] = {}
    taking = folder / "taking.lock"
    os.close(_open(taking))
    with exclusive(taking, waiting="waiting for another run to take its GPUs"):
        for gpu in gpus:
            if len(held) == count:
                break
            descriptor = _open(folder / f"{gpu.replace('/', '_')}.lock")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            held[gpu] = descriptor
    return held


def _open(path: Path) -> int:
    """A lock's file, which every user of the machine may lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    # Another user's is open to all already, and is not ours to change.
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o666)
    return descriptor


def _release(held: Mapping[str, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)
