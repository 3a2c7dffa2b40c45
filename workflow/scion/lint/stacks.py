"""Tensors that hold one projection of all experts of a layer, and the format that they spell."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scion.architectures.stacks import EXPERTS, Stack
from scion.checkpoint.safetensors_file import Tensor
from scion.lint.modules import FP8, stored_as

PACKED_STACK = "NVFP4 codes of all experts in one tensor"
"""Stored in place by a quantizer that took the stack for one weight; no engine here reads it."""
_CODES = "U8"
# A number after the projection's name is that of an expert, whose tensor lies by itself.
_PART = re.compile(r"(?P<projection>gate_up_proj|down_proj)([._](?!\d).+)?")
# Block scales as transformers, and engines after it, call those of a stack in FP8.
_FP8_SCALE = "_scale_inv"


@dataclass(frozen=True)
class ExpertStack:
    """A stack with its scales.

    Attributes:
        name: As `Inventory.stacked` has it.
        members: The modules that it stands for.
        parts: The tensor itself, and those whose names go on from its name.
    """

    name: str
    members: tuple[str, ...]
    parts: tuple[Tensor, ...]

    @property
    def stored(self) -> str | None:
        """As `Module.stored`, `PACKED_STACK`, or None where there is only what belongs to it."""
        dtypes = {part.dtype for part in self.parts if len(part.shape) > 1}
        if _CODES in dtypes:
            return PACKED_STACK
        return next((stored_as(part.dtype) for part in self.parts if part.name == self.name), None)


def stacks_of(tensors: Iterable[Tensor], expected: Mapping[str, Stack]) -> dict[str, ExpertStack]:
    """The stacks by name; what follows a plain one's name is none of its parts.

    Args:
        tensors: All of a checkpoint.
        expected: The stacks that config.json allows, by name.
    """
    gathered: dict[str, list[Tensor]] = {}
    for tensor in tensors if expected else ():
        block, _, rest = tensor.name.partition(EXPERTS)
        if match := _PART.fullmatch(rest):
            name = f"{block}{EXPERTS}{match['projection']}"
            if name in expected:
                gathered.setdefault(name, []).append(tensor)
    stacks = {
        name: ExpertStack(name, _modules(expected[name]), tuple(parts))
        for name, parts in gathered.items()
    }
    return {name: _without_strangers(stack) for name, stack in stacks.items() if stack.stored}


def _modules(stack: Stack) -> tuple[str, ...]:
    return tuple(member.removesuffix(".weight") for member in stack.members)


def _without_strangers(stack: ExpertStack) -> ExpertStack:
    if stack.stored == PACKED_STACK:
        return stack
    own = {stack.name, *([stack.name + _FP8_SCALE] if stack.stored == FP8 else [])}
    return ExpertStack(
        stack.name, stack.members, tuple(part for part in stack.parts if part.name in own)
    )
