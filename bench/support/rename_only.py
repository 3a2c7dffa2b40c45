"""What fix_keys does with a checkpoint's bytes, without hashing them: FOLDER to TARGET."""

import sys
from pathlib import Path

from scion.architectures.inventory import inventory
from scion.architectures.sound_names import sound_names
from scion.checkpoint.shards import Checkpoint
from scion.stages.fix_keys import rename_shards


def main() -> int:
    """Copy the shards of a folder under sound names."""
    folder, target = map(Path, sys.argv[1:])
    checkpoint = Checkpoint.open(folder)
    expected = inventory(checkpoint.config, where=folder)
    names = sound_names(checkpoint.shard_of, expected, where=folder)
    target.mkdir()
    rename_shards(checkpoint, names, set(checkpoint.headers), target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
