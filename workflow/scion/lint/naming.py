"""The tensor names of a checkpoint beside those that its config.json implies."""

from dataclasses import dataclass
from functools import lru_cache

from scion.architectures.families import in_head
from scion.architectures.inventory import Inventory
from scion.architectures.sound_names import SoundNames, without_peft
from scion.lint.modules import HEAD, KV_SCALES, SCALES, WEIGHTS
from scion.lint.subject import Subject

# Scales of attention's cache and products, and buffers of older checkpoints: engines rename the
# former and drop the latter.
# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/utils.py
_CACHE_SCALES = (
    *(*KV_SCALES, "q_scale", "kv_scale", "prob_scale", "output_scale"),
    *("q_zero_point", "k_zero_point", "v_zero_point"),
)
# Another rule's.
_AWQ_SCALE = "pre_quant_scale"
_BUFFERS = ("inv_freq", "cos_cached", "sin_cached")


@dataclass(frozen=True)
class Names:
    """What each name stands for.

    Attributes:
        wrapped: Keys that PEFT has put something around; what is inside is judged as all others.
        renamed: Expected name of each key that carries another prefix; scales as `.weight`.
        unexpected: Keys that fit nothing.
        missing: Expected names of the language model that nothing stands for.
        missing_vision: Those of the vision tower.
    """

    wrapped: list[str]
    renamed: dict[str, str]
    unexpected: list[str]
    missing: list[str]
    missing_vision: list[str]


@lru_cache(maxsize=1)
def names_of(subject: Subject) -> Names | None:
    """None where the architecture is not known. The MTP head is left to its own rules."""
    expected = subject.inventory
    if expected is None:
        return None
    sound = SoundNames(expected.storable, expected.family)
    stack_of = {
        tensor.name: stack.name for stack in subject.stacks.values() for tensor in stack.parts
    }
    wrapped: list[str] = []
    renamed: dict[str, str] = {}
    unexpected: list[str] = []
    there: set[str] = set()
    for name in subject.tensors:
        weight = weight_of(stack_of.get(name, name))
        meant = weight if in_head(name) else sound.of(weight)
        if meant is None:
            unexpected.append(name)
            continue
        there.add(meant)
        if name != without_peft(name):
            wrapped.append(name)
        if meant != weight:
            renamed[weight] = meant
    there = expected.represented(there)
    return Names(
        wrapped,
        renamed,
        [name for name in unexpected if not _is_left_out(name, expected)],
        [name for name in expected.language if name not in there],
        [name for name in expected.vision if name not in there],
    )


def weight_of(name: str) -> str:
    """The unquantized tensor that a tensor stands for: of a quantized module, or inside PEFT's."""
    name = without_peft(name)
    module, _, suffix = name.rpartition(".")
    return f"{module}.weight" if suffix in (*WEIGHTS, *SCALES) else name


def _is_left_out(name: str, expected: Inventory) -> bool:
    """Whether engines don't look for a module of that name; a tied head has its own rule."""
    above, _, last = name.rpartition(".")
    rotary = last in _BUFFERS and above.endswith(("rotary_emb", "rotary_pos_emb"))
    headless = expected.tied or expected.ending == "none"
    scale = last in (*_CACHE_SCALES, _AWQ_SCALE)
    return scale or rotary or (headless and above == HEAD) or _is_end(name, expected)


def _is_end(name: str, expected: Inventory) -> bool:
    """Whether it may lie behind the last norm, in a class of which that end is not known."""
    family = expected.family
    return expected.ending == "unknown" and not name.startswith(
        (family.prefix, family.vision_prefix)
    )
