"""Stacks: tensors that hold one projection of all experts of a layer.

Sources in bf16 have the experts of a mixture stacked (`mlp.experts.gate_up_proj`, `down_proj`), or
one by one (`mlp.experts.7.up_proj.weight`); quantized releases have them one by one, since each
has scales of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from scion.architectures.parts import Shape

EXPERTS = ".mlp.experts."
_GATE_UP, _DOWN = "gate_up_proj", "down_proj"


@dataclass(frozen=True)
class Stack:
    """A tensor that holds one projection of all experts of a layer.

    Attributes:
        shape: [experts, 2 * inner, hidden] of a `gate_up_proj`, whose rows are those of the gate,
            then those of `up`; [experts, hidden, inner] of a `down_proj`.
        members: The tensors that it stands for, expert by expert (gate before up). Laid end to end
            they are the stack's numbers.
    """

    shape: Shape
    members: tuple[str, ...]

    @property
    def member_shape(self) -> tuple[int, int]:
        """[out, in] of each member."""
        experts, rows, columns = self.shape
        return rows * experts // len(self.members), columns


def stack_name(tensor: str) -> str | None:
    """The stack that would hold the tensor, or the module, of a single expert.

    None for what belongs to no expert; of a stack's own name, that name.
    """
    block, found, rest = tensor.partition(EXPERTS)
    if not found:
        return None
    last = _DOWN if _DOWN in rest.split(".") else _GATE_UP
    return f"{block}{EXPERTS}{last}"


def stacks_of(tensors: Mapping[str, Shape]) -> dict[str, Stack]:
    """The stacks that may stand for single experts, by name.

    Args:
        tensors: Shape by name, experts one by one and in order.
    """
    members: dict[str, list[str]] = {}
    for tensor in tensors:
        if (name := stack_name(tensor)) is not None:
            members.setdefault(name, []).append(tensor)
    return {name: _stack(name, names, tensors) for name, names in members.items()}


def _stack(name: str, members: list[str], tensors: Mapping[str, Shape]) -> Stack:
    rows, columns = tensors[members[0]]
    joined = 2 if name.endswith(_GATE_UP) else 1
    return Stack((len(members) // joined, joined * rows, columns), tuple(members))


def taken_apart(names: Iterable[str], stacks: Mapping[str, Stack]) -> Iterator[str]:
    """Names with those of the single experts in place of each stack."""
    for name in names:
        yield from stacks[name].members if name in stacks else (name,)
