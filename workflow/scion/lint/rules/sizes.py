"""Rules over the sizes of layers: whether they come to whole blocks, on each GPU too."""

import math
from collections.abc import Iterable

from scion.architectures.stacks import EXPERTS
from scion.engines import facts
from scion.formats.modelopt import BLOCK
from scion.lint.formats import fp8_block
from scion.lint.modules import FP8, NVFP4, Module
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_QUANTIZE = workflow_until("quantize_nvfp4")
# Layers whose input is split over the GPUs of a tensor-parallel server; all others split their
# output. https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/qwen3_next.py
_SPLIT_INPUT = (".o_proj", ".out_proj", ".down_proj")
# Layers that every GPU holds whole.
_WHOLE = (".gate", ".shared_expert_gate", ".fc", "lm_head")
_SM120_ALIGNMENT = 32


def _listed(stop: Iterable[facts.Fact]) -> str:
    return ", ".join(map(str, stop))


@rule(
    "S503",
    "block-misfit",
    Severity.ERROR,
    "an NVFP4 weight's input is no multiple of 16",
    repair="serve with fewer GPUs where only their share misfits; else keep the module in bf16",
    command=_QUANTIZE,
)
def block_misfit(subject: Subject) -> Iterable[Finding]:
    """NVFP4 scales 16 inputs at a time; on each GPU there must be a whole number of such blocks.

    Layers whose input is split over GPUs (`o_proj`, `out_proj`, `down_proj`) are judged under each
    tensor-parallel size that is asked for.
    """
    for size in subject.tensor_parallel:
        for name, columns in _inputs(subject, size):
            if columns % BLOCK:
                expected = f"a multiple of {BLOCK}{_over(size)}"
                yield Finding(subject.names_file, name, expected, f"{columns:g} inputs")


@rule(
    "S504",
    "sm120-misfit",
    Severity.WARNING,
    "an NVFP4 weight's input is no multiple of 32 on a GPU",
    repair="serve with fewer GPUs, or keep the module in bf16; other GPUs than SM120 are fine",
    holds_for="vllm on SM120 (RTX 50, RTX PRO 6000)",
    seen=("https://github.com/vllm-project/vllm/issues/48898",),
)
def sm120_misfit(subject: Subject) -> Iterable[Finding]:
    """The FP4 kernels of SM120 read 32 inputs at a time, and garbage past the end.

    A split over GPUs can leave 16 more than a multiple of 32 on each. Nothing is raised; the layer
    returns noise.
    """
    for size in subject.tensor_parallel:
        for name, columns in _inputs(subject, size):
            if columns % BLOCK == 0 and columns % _SM120_ALIGNMENT:
                expected = f"a multiple of {_SM120_ALIGNMENT}{_over(size)}"
                yield Finding(subject.names_file, name, expected, f"{columns:g} inputs")


def _inputs(subject: Subject, size: int) -> Iterable[tuple[str, float]]:
    """Name and inputs a GPU of each NVFP4 module when split over `size` GPUs."""
    for name, module in subject.judged_modules.items():
        if module.stored == NVFP4 and module.shape:
            split = size if name.endswith(_SPLIT_INPUT) else 1
            yield name, module.shape[-1] / split


def _over(size: int) -> str:
    return f" on each of {size} GPUs" if size > 1 else ""


@rule(
    "S505",
    "indivisible",
    Severity.ERROR,
    "a layer can't be split over the GPUs that were asked for",
    repair="serve with a number of GPUs that divides heads and widths",
)
def indivisible(subject: Subject) -> Iterable[Finding]:
    """Tensor parallelism gives each GPU an equal share of a layer's outputs, or of its inputs.

    Engines stop where the share is not whole. Key and value heads are the exception: where there
    are fewer than GPUs, each is held by several.
    """
    linear = subject.inventory.linear if subject.inventory else {}
    for size in subject.tensor_parallel:
        for name, (rows, columns) in linear.items():
            parts = columns if name.endswith(_SPLIT_INPUT) else rows
            replicated = name.endswith((".k_proj", ".v_proj", *_WHOLE)) or ".visual." in name
            if parts % size and not replicated and subject.stored(name) is not None:
                yield Finding(subject.names_file, name, f"a multiple of {size}", f"{parts}")


@rule(
    "S510",
    "fp8-block-misfit",
    Severity.ERROR,
    "a GPU's share of an FP8 weight is no whole number of its blocks",
    repair="serve with fewer GPUs; of a mixture, the experts fit with --enable-expert-parallel "
    "(vLLM) or --ep-size (SGLang)",
    holds_for=f"{_listed(facts.FP8_BLOCKS_SPLIT)}; "
    f"routed experts: {_listed(facts.FP8_EXPERT_BLOCKS_SPLIT)}",
    seen=(
        "https://github.com/vllm-project/vllm/issues/52997",
        "https://github.com/vllm-project/vllm/pull/52915",
        "https://github.com/vllm-project/vllm/issues/54178",
        "https://github.com/sgl-project/sglang/issues/26107",
    ),
)
def fp8_block_misfit(subject: Subject) -> Iterable[Finding]:
    """One scale stands for a block of 128 x 128 numbers, and a block can't be shared by GPUs.

    Layers whose input is split need a whole number of blocks of inputs on each GPU, all others one
    of outputs. Both engines stop while they build the layer: "Weight input_size_per_partition = 64
    is not divisible by weight quantization block_k = 128". It is the narrow layers that misfit: the
    shared expert of 512 on eight GPUs, key heads of 64. Newer vLLM splits the scales of routed
    experts further, so these are judged for the releases that are known to stop.
    """
    block = fp8_block(subject.declared)
    for size in subject.tensor_parallel if block else ():
        for name, module in subject.judged_modules.items():
            if block is None or size == 1 or not _is_blockwise(module, block):
                continue
            share, axis = _share(subject, name, module, size)
            wanted = block[1] if axis == "inputs" else block[0]
            stop = facts.FP8_EXPERT_BLOCKS_SPLIT if EXPERTS in name else facts.FP8_BLOCKS_SPLIT
            engines = tuple(engine for fact in stop for engine in fact.among(subject.engines))
            if share % wanted and engines:
                expected = f"a multiple of {wanted}{_over(size)}"
                found = f"{share:g} {axis}"
                yield Finding(subject.names_file, name, expected, found, engines)


def _is_blockwise(module: Module, block: tuple[int, int]) -> bool:
    """Whether a module is stored in FP8 with a scale for each block."""
    if module.stored != FP8 or module.shape is None or len(module.shape) != 2:
        return False
    scale = module.tensors.get("weight_scale")
    blocks = [math.ceil(numbers / wide) for numbers, wide in zip(module.shape, block, strict=True)]
    by_block = scale is not None and math.prod(scale.shape) == math.prod(blocks)
    return "weight_scale_inv" in module.tensors or by_block


def _share(subject: Subject, name: str, module: Module, size: int) -> tuple[float, str]:
    """What a GPU holds of the axis that a layer is split along, and which axis that is."""
    rows, columns = module.shape or (0, 0)
    if name.endswith(_SPLIT_INPUT):
        return columns / size, "inputs"
    if name.endswith(_WHOLE) or ".visual." in name:
        return 0, "outputs"
    heads = subject.text_config.get("num_key_value_heads")
    if name.endswith((".k_proj", ".v_proj")) and isinstance(heads, int) and heads > 0:
        # Where there are fewer heads than GPUs, each is held by several.
        size = min(size, heads)
    return rows / size, "outputs"


RULES = (block_misfit, sm120_misfit, indivisible, fp8_block_misfit)
