"""Which matrices of an MTP head a release may have in FP8 or NVFP4; needs no torch.

Those of its decoder layer. `fc`, which joins embedding and hidden state, stays bf16: SGLang builds
it unquantized whatever is declared, and vLLM does where all else is NVFP4.
https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/models/qwen3_5_mtp.py
"""

from scion.architectures.inventory import Inventory
from scion.common.errors import ScionError


def head_groups(expected: Inventory) -> list[tuple[str, ...]]:
    """The modules that are quantized, those together that engines load as one.

    Args:
        expected: The tensors that config.json implies, with a head.

    Returns:
        Names as in the checkpoint, without `.weight`, such as `mtp.layers.0.self_attn.q_proj`, in
        the order of the checkpoint; a module that nothing is fused with is a group of its own.

    Raises:
        ScionError: The head is a mixture of experts.
    """
    fc = expected.family.head.fc if expected.family.head else None
    names = (name.removesuffix(".weight") for name in expected.mtp)
    modules = [name for name in names if name in expected.linear and name != fc]
    refuse_experts(expected, where=modules[0] if modules else expected.family.title)
    group_of = {module: group for group in expected.groups for module in group}
    return list(dict.fromkeys(group_of.get(module, (module,)) for module in modules))


def refuse_experts(expected: Inventory, *, where: object) -> None:
    """Refuse to quantize the head of a mixture of experts, which is one as well.

    Args:
        expected: The tensors that config.json implies, with a head or without.
        where: What to name in errors.

    Raises:
        ScionError: It is a mixture.
    """
    if expected.stacked:
        raise ScionError(
            "the MTP head is a mixture of experts, and such a head is not quantized",
            where=where,
            expected="a head with one MLP in its decoder layer",
            found=f"experts ({expected.family.title})",
            hint="set mtp.quantize: none",
        )
