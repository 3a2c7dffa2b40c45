"""A checkpoint whose stacked experts are seen one by one, without moving a byte.

A stack's numbers are those of its members laid end to end, so each member is a byte range of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from scion.architectures.stacks import Stack
from scion.checkpoint.safetensors_file import Header, Tensor
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError


def experts_apart(checkpoint: Checkpoint, stacks: Mapping[str, Stack]) -> Checkpoint:
    """The same checkpoint with the members of its stacks in their place.

    Args:
        checkpoint: May hold stacks, in some layers or in all; without any it is returned as it is.
        stacks: Those that its config.json allows, by name.

    Returns:
        Names, shapes and byte ranges of single experts. Files are what they were, so tensors are to
        be read by `Checkpoint.piece`, not by their names.

    Raises:
        ScionError: A stack has another shape than config.json implies.
    """
    if stacks.keys().isdisjoint(checkpoint.shard_of):
        return checkpoint
    headers = {
        shard: _header_apart(checkpoint, header, stacks)
        for shard, header in checkpoint.headers.items()
    }
    shard_of = {name: shard for shard, header in headers.items() for name in header.tensors}
    return replace(checkpoint, headers=headers, shard_of=shard_of)


def _header_apart(checkpoint: Checkpoint, header: Header, stacks: Mapping[str, Stack]) -> Header:
    tensors: dict[str, Tensor] = {}
    for name, tensor in header.tensors.items():
        if name not in stacks:
            tensors[name] = tensor
            continue
        members = members_of(tensor, stacks[name], where=checkpoint.folder)
        tensors |= {member.name: member for member in members}
    return replace(header, tensors=tensors)


def members_of(tensor: Tensor, stack: Stack, *, where: object) -> Iterator[Tensor]:
    """The members of a stack, each a range of the stack's own.

    Args:
        tensor: The stack as it is stored.
        stack: What it stands for.
        where: Its checkpoint, to name in errors.

    Raises:
        ScionError: It has another shape than config.json implies.
    """
    if tensor.shape != stack.shape:
        raise ScionError(
            "a stack of experts is not as config.json implies",
            where=f"{where}: {tensor.name}",
            expected=f"shape {list(stack.shape)}",
            found=f"shape {list(tensor.shape)}",
            hint="compare config.json with the shards; run the workflow from fetch_source",
        )
    size = tensor.size // len(stack.members)
    for number, member in enumerate(stack.members):
        begin = tensor.begin + number * size
        yield Tensor(member, tensor.dtype, stack.member_shape, begin, begin + size)
