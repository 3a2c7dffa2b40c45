"""Rules over tensor data: what only a look at every number shows. All of them share one scan."""

import math
import statistics
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from scion.formats.modelopt import BLOCK
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject

if TYPE_CHECKING:
    from scion.lint.kernels import Blocks, ZeroRows
    from scion.lint.scan import Scan

_OLLAMA = "https://github.com/ollama/ollama/issues/15866"
_KEEP = (
    "quantize again from the source with weight_scale_2 = max|w| / (6 * 448), or keep the module "
    "in bf16; `scion lint --deep` of the source tells whether its own rows are zero"
)
_RESIDUAL = ("input_layernorm", "post_attention_layernorm")
# Halfway between what is right and what MLX makes of it.
_SHIFTED = 0.5
MANY_ROWS = 1 / 16
"""The share of zero rows that no trained matrix has."""

# How improbable, in a sound tensor of the worst kind, what is called saturated must be.
_CHANCE = 1e-6
# The largest expected shares in a sound tensor; `saturated_blocks` derives them. Both ends of each
# interval may have moved by half a step of bf16.
_BF16 = (1 - 2**-8) / (1 + 2**-8)
_AT_TOP = (1 - (432 / 448 * _BF16) ** BLOCK) / (1 - (400 / 448) ** BLOCK)
_FULL = 1 - 5 / (6 * 17 / 16) * _BF16


def _scan(subject: Subject) -> "Scan":
    # numpy takes as long to import as all else of a lint that needs no tensor data.
    from scion.lint.scan import scan

    return scan(subject)


def _means(subject: Subject, names: Iterable[str]) -> dict[str, float]:
    from scion.lint.scan import means

    return means(subject, names)


@rule(
    "D701",
    "vanished-rows",
    Severity.ERROR,
    "a sixteenth or more of a linear weight's rows are zero",
    repair=_KEEP,
    seen=(_OLLAMA,),
    deep=True,
)
def vanished_rows(subject: Subject) -> Iterable[Finding]:
    """A row of a linear weight makes one channel of its output, so these channels are silent.

    Nothing else tells: the tensor has its shape, every scale is a number, the server starts. In
    the case seen, NVFP4 without a scale for the whole tensor, the small weights of the key rows in
    the first layers fell below the smallest block scale: all 2048 key rows of layer 0 were zero, a
    quarter of its matrix, and the model spoke nonsense. Shards that were never filled, or gathered
    from the wrong rank, look the same in bf16.

    A row is zero if each code of it is (plus or minus zero) or the scale of its block is. Trained
    matrices do have a few: 57 of 8192 in layer 2 of the case seen, which `zero-rows` mentions. But
    a sixteenth of all rows is a head or more. Embeddings and output heads are left out: they have a
    row a token, and the rows that pad a vocabulary to a round size are zero in sound checkpoints.
    """
    for name, rows in _zero_rows(subject):
        if rows.count >= rows.total * MANY_ROWS:
            yield _rows_finding(subject, name, rows, "rows that are not zero")


@rule(
    "D702",
    "saturated-blocks",
    Severity.WARNING,
    "more NVFP4 blocks are at the largest number than rounding explains",
    repair="quantize again with weight_scale_2 = max|w| / (6 * 448) over the source's own weights",
    deep=True,
)
def saturated_blocks(subject: Subject) -> Iterable[Finding]:
    """The weights were clipped: a scale was too small for what it should have covered.

    Under maximum calibration, weight_scale_2 = max|w| / (6 * 448), a block's scale is the E4M3
    number next to `max|block| / 6 / weight_scale_2`, so 448 is due to blocks that come within
    432/448 of the tensor's largest weight, and 416, the number below, to those within 400/448 that
    do not. If weight_scale_2 is too small, every block beyond it is clipped and piles up at 448.
    And each block has a code 6, its largest weight; if the block scales themselves are too small,
    it has many. Judged are two shares, by assuming only that small weights are not rarer than
    large ones, within each block and with any spread from block to block:

    - 448 among the blocks at 448 or 416. The more evenly weights are spread, the more there are;
      for evenly spread ones it is (1 - (432/448)^16) / (1 - (400/448)^16) = 0.53, and 0.61 if bf16
      rounds every weight the worst way. Trained weights come to 0.3.
    - 6 among a block's other 15 codes. A code is 6 from 5 up, and a block's largest weight, with
      its scale rounded down by all that E4M3 rounds, is 6 * 17/16 at most: 1 - 5/6.375 = 0.22.

    What exceeds them must do so by more than chance does once in a million tensors (Chernoff's
    bound). Weights made of two or three values only, as of a binary network, look clipped too;
    clipping of a few outliers, or of nearly nothing at the tail of a bell curve, is not seen. A
    weight_scale_2 that was changed after the codes were made is not either: codes do not know it.
    """
    for name, blocks in _scan(subject).blocks.items():
        if is_saturated(blocks):
            yield Finding(
                subject.shard_of(f"{name}.weight_scale"),
                f"{name}.weight_scale",
                "fewer blocks at scale 448 than about at 416, and about one code 6 in a block",
                f"of {blocks.total} blocks {blocks.at_top} at 448 and {blocks.below_top} at 416; "
                f"{blocks.full / blocks.total:.1f} codes 6 in a block",
            )


@rule(
    "D703",
    "not-finite",
    Severity.ERROR,
    "a tensor holds NaN or infinity",
    repair="fetch the file again; if its digest is that of the origin, take the tensor from the "
    "base model or choose another revision",
    deep=True,
)
def not_finite(subject: Subject) -> Iterable[Finding]:
    """One NaN in a weight makes every number computed with it NaN, and the answer is `!!!!`.

    Looked at is every floating-point number: linear weights, norms, embeddings, the vision tower
    and the MTP head, FP8 too, whose E4M3 has NaN but no infinity. Block scales of NVFP4 are D704's;
    scalar scales are read without `--deep`.
    """
    for name, numbers in _scan(subject).numbers.items():
        if numbers.not_finite:
            tensor = subject.tensors[name]
            total = math.prod(tensor.shape)
            yield Finding(
                subject.shard_of(name),
                name,
                f"finite numbers of {tensor.dtype}",
                f"{numbers.not_finite} of {total} are NaN or infinite, the first at position "
                f"{numbers.first}",
            )


@rule(
    "D704",
    "broken-block-scales",
    Severity.ERROR,
    "block scales of an NVFP4 weight are NaN, negative, or zero above codes that are not",
    repair="quantize again; a quantizer clamps block scales to E4M3's smallest number, 2^-9, and "
    "its largest, 448, before it casts",
    deep=True,
)
def broken_block_scales(subject: Subject) -> Iterable[Finding]:
    """A block scale is the largest magnitude of 16 weights over 6: a positive number.

    A scale of zero erases its 16 weights, whose codes show that they were something: it was
    rounded down from less than 2^-10. A NaN was cast from more than 448 without clamping. A
    negative one turns 16 weights around; kernels that take the byte for an unsigned format read
    some other number. A zero scale above codes that are all zero means the right thing, so it is
    left alone.
    """
    for name, blocks in _scan(subject).blocks.items():
        kinds = {"NaN": blocks.nan, "negative": blocks.negative, "zero": blocks.lost}
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        if found:
            yield Finding(
                subject.shard_of(f"{name}.weight_scale"),
                f"{name}.weight_scale",
                "positive numbers, or zero where all codes are",
                f"of {blocks.total} scales {found}",
            )


@rule(
    "D705",
    "zero-rows",
    Severity.WARNING,
    "single rows of a linear weight are zero",
    repair=_KEEP,
    seen=(_OLLAMA,),
    deep=True,
)
def zero_rows(subject: Subject) -> Iterable[Finding]:
    """A few channels of this module's output are silent: pruned, dead, or lost by rounding.

    Trained checkpoints have such rows now and then, and a faithful quantization keeps them, so
    this is no error; a quantized weight that has them where its source has none has lost them.
    `vanished-rows` is the same from a sixteenth of all rows on, and says what a zero row is.
    """
    for name, rows in _zero_rows(subject):
        if rows.count < rows.total * MANY_ROWS:
            yield _rows_finding(subject, name, rows, "no zero row, or those of the source alone")


@rule(
    "D706",
    "shifted-norms",
    Severity.ERROR,
    "norms that multiply by 1 + w hold 1 + w",
    repair="take 1 from every norm of the family that is zero-centred (all but the delta net's "
    "`linear_attn.norm`), or take the checkpoint that was converted to MLX",
    seen=(
        "https://github.com/ggml-org/llama.cpp/issues/23758",
        "https://github.com/ml-explore/mlx-lm/pull/1623",
    ),
    deep=True,
)
def shifted_norms(subject: Subject) -> Iterable[Finding]:
    """The family's norms compute `x * (1 + w)`, and w is what other families call w - 1.

    MLX adds the 1 when it converts, and what is renamed back to transformers' layout afterwards may
    keep it: names and shapes are right, every layer's input is twice as large as it should be, and
    the model speaks nonsense. Seen were means of 1.03 where the source has -0.02. Judged is the
    median, over all decoder layers, of the means of the two norms of the residual stream: training
    moves some norms far, but not half of them.
    """
    expected = subject.inventory
    ends = expected.family.zero_centred if expected else ()
    names = [
        f"{module}.weight"
        for module in (expected.layer_modules if expected else ())
        if module.endswith(ends)
        and module.endswith(_RESIDUAL)
        and f"{module}.weight" in subject.tensors
    ]
    found = _means(subject, names) if names else {}
    if found and (middle := statistics.median(found.values())) > _SHIFTED:
        yield Finding(
            subject.names_file,
            names[0],
            "means near 0, as the norms of this family have",
            f"a median of {middle:.2f} over {len(found)} norms",
        )


RULES = (vanished_rows, saturated_blocks, not_finite, broken_block_scales, zero_rows, shifted_norms)


def is_saturated(blocks: "Blocks") -> bool:
    """Whether blocks were clipped, by either of the shares that `saturated_blocks` derives."""
    others = (BLOCK - 1) * blocks.total
    return _exceeds(blocks.at_top, blocks.at_top + blocks.below_top, _AT_TOP) or _exceeds(
        blocks.full - blocks.total, others, _FULL
    )


def _zero_rows(subject: Subject) -> Iterator[tuple[str, "ZeroRows"]]:
    """Each linear weight that has zero rows, by tensor."""
    numbers_of_data = _scan(subject)
    weights = {name: numbers.rows for name, numbers in numbers_of_data.numbers.items()}
    for module, blocks in numbers_of_data.blocks.items():
        weight = subject.modules[module].weight
        assert weight is not None
        weights[weight.name] = blocks.rows
    for name, rows in weights.items():
        if rows is not None and rows.count:
            yield name, rows


def _rows_finding(subject: Subject, name: str, rows: "ZeroRows", expected: str) -> Finding:
    found = f"{rows.count} of {rows.total} rows are zero, the first is row {rows.first}"
    return Finding(subject.shard_of(name), name, expected, found)


def _exceeds(count: int, total: int, share: float) -> bool:
    """Whether chance does not explain `count` of `total` where `share` is expected at most.

    Chernoff's bound: the probability of that many is exp(-total * divergence) or less.
    """
    if count <= total * share:
        return False
    part = count / total
    divergence = part * math.log(part / share)
    if part < 1:
        divergence += (1 - part) * math.log((1 - part) / (1 - share))
    return math.exp(-total * divergence) < _CHANCE
