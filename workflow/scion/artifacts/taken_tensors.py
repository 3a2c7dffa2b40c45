"""Some tensors of a checkpoint, as shards of the artifact in the making."""

import sys
from collections.abc import Callable, Collection

from scion.artifacts.artifact import Artifact, Draft
from scion.checkpoint.safetensors_file import copy_subset
from scion.checkpoint.shards import Checkpoint
from scion.common.digest import in_parallel
from scion.common.progress import progress
from scion.common.text import printable


def take_tensors(
    draft: Draft,
    source: Artifact,
    checkpoint: Checkpoint,
    names: Collection[str],
    *,
    shard_name: Callable[[int, int], str],
) -> list[str]:
    """Take tensors over: a shard that holds no others is linked, of another a part is copied.

    What is copied goes from file to file inside the kernel. The index is not written.

    Args:
        draft: The artifact in the making.
        source: A checkpoint.
        checkpoint: Its headers.
        names: The tensors.
        shard_name: The name of a new shard, of its number from 1 on and of how many there are.

    Returns:
        The names of the new shards, in the order of the source's.
    """
    wanted = set(names)
    kept = {
        shard: [name for name in header.tensors if name in wanted]
        for shard, header in checkpoint.headers.items()
    }
    kept = {shard: tensors for shard, tensors in kept.items() if tensors}
    new = {shard: shard_name(number, len(kept)) for number, shard in enumerate(kept, start=1)}
    parts = list[str]()
    for shard, tensors in kept.items():
        if len(tensors) == len(checkpoint.headers[shard].tensors):
            draft.link(source, shard, new[shard])
        else:
            parts.append(shard)
    with progress("shards", len(parts)) as told:

        def copy_part(shard: str) -> None:
            print(f"copying {len(kept[shard])} tensors of {printable(shard)}", file=sys.stderr)
            copy_subset(source.folder / shard, draft.folder / new[shard], kept[shard])
            told.advance()

        in_parallel(copy_part, parts)
    return list(new.values())
