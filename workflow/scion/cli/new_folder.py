"""A release that a command writes beside another: whole or not at all, under a free name."""

import secrets
import shutil
import signal
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path

from scion.common.errors import ScionError


def require_free(output: Path) -> None:
    """Refuse a name that something has.

    Raises:
        ScionError: There is something.
    """
    if output.exists() or output.is_symlink():
        raise ScionError(
            "there is something where the release would go",
            where=output,
            expected="a name that is free",
            found="a folder" if output.is_dir() else "a file",
            hint="remove it, or name another with --output",
        )


@contextmanager
def placed_whole(output: Path) -> Generator[Path]:
    """A folder that gets the name `output` when the block has ended well, and else is removed.

    SIGTERM is heard as Ctrl-C meanwhile.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        folder.mkdir()
        yield folder
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def take_along(
    source: Path,
    folder: Path,
    shards: Collection[str],
    *,
    but: set[str],
    also: Collection[str] = (),
) -> list[str]:
    """Give a folder what an engine loads of a release, as it is.

    Args:
        source: The release.
        folder: Gets its files.
        shards: The names of its shards.
        but: What the folder gets otherwise.
        also: Further files that belong to it, where the release has them.

    Returns:
        The names of files that tell of the release, such as cards and proofs, and stay behind.
    """
    from scion.checkpoint.release_files import released
    from scion.common.files import copy_file, reflink_or_link

    there = {path.name for path in source.iterdir() if path.is_file()}
    taken = {*released(there), *shards, *also} - but
    for name in sorted(taken & there):
        # Of a link, whoever edits one file edits both; shards nobody edits.
        place = reflink_or_link if name in shards else copy_file
        place(source / name, folder / name)
    return sorted(there - taken - but)
