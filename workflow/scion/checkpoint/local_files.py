"""The files of a checkpoint that lies here which a release takes along."""

from pathlib import Path

from scion.checkpoint.folder_source import FolderSource
from scion.checkpoint.release_files import released
from scion.checkpoint.shards import Checkpoint


def local_files(folder: Path) -> list[Path]:
    """What is taken of a checkpoint: all that a release can use, and whatever its index names.

    Raises:
        ScionError: A link leaves the folder, or index and shards do not fit together.
    """
    usable = usable_files(folder)
    named = (folder / shard for shard in Checkpoint.open(folder).headers)
    return sorted({*usable, *named})


def usable_files(folder: Path) -> list[Path]:
    """The files of a folder that a release can use, whatever its index says.

    Raises:
        ScionError: A link leaves the folder, or it can't be read.
    """
    return [folder / name for name in released(FolderSource(folder).files)]
