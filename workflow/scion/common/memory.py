"""Host memory that a process may still take."""

from collections.abc import Iterator
from pathlib import Path

_MEMBERSHIP, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/meminfo")


def available_memory(
    membership: Path = _MEMBERSHIP, mount: Path = _MOUNT, machine: Path = _MACHINE
) -> int:
    """Bytes that can be taken without swapping, within the limits of the process's cgroups.

    The page cache counts as available: the kernel gives it up.

    Args:
        membership: The file that names this process's cgroups.
        mount: Where cgroups are mounted.
        machine: The kernel's table of the whole machine's memory.
    """
    rooms = (room for folder in _folders(membership, mount) for room in _rooms(folder))
    return max(0, min([_machine_room(machine), *rooms]))


def _machine_room(table: Path) -> int:
    """What the kernel says is available: free, and the part of caches that it can give up."""
    rows = dict(row.split(":", 1) for row in table.read_text().splitlines())
    kibibytes, _unit = rows["MemAvailable"].split()
    return int(kibibytes) << 10


def _folders(membership: Path, mount: Path) -> Iterator[Path]:
    """The memory cgroups that this process is in, and all above them."""
    try:
        lines = membership.read_text().split("\n")
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            tops = [mount, mount / "unified"]
        elif "memory" in controllers.split(","):
            tops = [mount / "memory"]
        else:
            continue
        for top in tops:
            # In a container the name may be the host's: then only the mount itself is there.
            folder = top / name.lstrip("/")
            yield from (place for place in (folder, *folder.parents) if place.is_relative_to(top))


def _rooms(folder: Path) -> Iterator[int]:
    """What a cgroup leaves, by the files of version 2 or of version 1."""
    for most, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            # `max` is no limit.
            limit, taken = (int((folder / name).read_text()) for name in (most, used))
            fields = (folder / "memory.stat").read_text().split("\n")
        except (OSError, ValueError):
            continue
        counts = dict(field.split(" ", 1) for field in fields if " " in field)
        yield limit - taken + int(counts.get(cache, 0))
