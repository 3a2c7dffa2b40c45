"""What FP8 and NVFP4 make of a head's matrices, as training computes it and as it is packed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from modelopt.torch.export.model_config import QUANTIZATION_FP8
from modelopt.torch.export.quant_utils import to_quantized_weight

from scion.architectures.inventory import inventory, with_mtp_layers
from scion.checkpoint.shards import read_json
from scion.common.errors import ScionError
from scion.evaluation.offline.linear import Fp8Linear, NvFp4Linear
from scion.formats import fp8
from scion.formats.modelopt import FP8, NVFP4
from scion.formats.stored_modules import HeadScheme
from scion.healing.rounding import head_groups, rounded
from scion.quantization.packed_group import pack_group, shared_scale

PICO = Path(__file__).parent.parent.parent / "resources/pico"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ALGORITHM: dict[HeadScheme, str] = {"fp8": FP8, "nvfp4": NVFP4}


def group(kind: str) -> list[torch.Tensor]:
    """A fused group of three, float32, the first with the largest numbers."""
    generator = torch.Generator().manual_seed(1)
    made = [
        torch.randn(rows, 64, generator=generator) * size
        for rows, size in ((48, 0.3), (16, 0.02), (16, 0.1))
    ]
    if kind == "zeros":
        made[1][2] = 0
        made[1][3, 16:32] = -0.0
    elif kind == "tiny":
        made[1] *= 1e-6
        made[2][:, :16] *= 1e-9
    elif kind == "outlier":
        made[0][0, 0] = -1000
    elif kind == "ties":
        steps = torch.tensor([0.25, -0.75, 1.25, -1.75, 2.5, -3.5, 5, 6] * 8)
        made = [steps.repeat(8, 1) for _ in range(3)]
    return made


def decoded(weights: Sequence[torch.Tensor], scheme: HeadScheme) -> list[torch.Tensor]:
    """As engines decode what the stage packs."""
    packed = pack_group(
        [weight.bfloat16().contiguous() for weight in weights], ALGORITHM[scheme], where="here"
    )
    one = torch.ones(())
    if scheme == "fp8":
        return [
            Fp8Linear(each["weight"], each["weight_scale"], one, keep=False).decode()
            for each in packed
        ]
    return [
        NvFp4Linear(
            each["weight"],
            each["weight_scale"],
            each["weight_scale_2"],
            input_scale=one,
            keep=False,
        ).decode()
        for each in packed
    ]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Where -0.0 and 0.0 differ."""
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "zeros", "tiny", "outlier", "ties"])
@pytest.mark.parametrize("scheme", ["fp8", "nvfp4"])
def test_training_sees_what_the_packed_matrices_decode_to(
    scheme: HeadScheme, kind: str, dtype: torch.dtype
) -> None:
    weights = [weight.to(dtype) for weight in group(kind)]
    found = rounded([weight.to(DEVICE) for weight in weights], scheme)
    for value, wanted in zip(found, decoded(weights, scheme), strict=True):
        assert (value.dtype, value.device.type) == (dtype, DEVICE.type)
        assert torch.equal(bits(value.cpu()), bits(wanted.to(dtype)))


def test_without_a_scheme_the_values_are_those_of_bf16() -> None:
    weights = group("plain")
    for value, weight in zip(rounded(weights, "none"), weights, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, weight.bfloat16().float())


@pytest.mark.parametrize("scheme", ["fp8", "nvfp4"])
def test_a_group_has_one_scale(scheme: HeadScheme) -> None:
    weights = group("plain")
    alone = [rounded([weight], scheme)[0] for weight in weights]
    together = rounded(weights, scheme)
    # The first has the largest number; the others are rounded by its scale.
    assert torch.equal(alone[0], together[0])
    assert not torch.equal(alone[1], together[1])


def test_gradients_pass_around_the_rounding() -> None:
    weight = group("plain")[0].requires_grad_(True)
    (value,) = rounded([weight], "nvfp4")
    assert not value.requires_grad
    through = weight + (value - weight).detach()
    through.square().sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, 2 * value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "tiny", "outlier", "ties"])
def test_fp8_is_rounded_as_modelopt_does(kind: str) -> None:
    for weight in group(kind):
        stored = weight.bfloat16()
        scale = shared_scale(stored.abs().amax().float(), FP8)
        theirs = to_quantized_weight(stored, scale, QUANTIZATION_FP8)
        assert torch.equal(bits(fp8.quantize(stored, scale)), bits(theirs))


# Which matrices


def test_the_groups_are_those_that_engines_fuse() -> None:
    config = with_mtp_layers(read_json(PICO / "pico-base/config.json"), 1)
    layer = "mtp.layers.0"
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    assert sorted(head_groups(inventory(config, where="here"))) == sorted(
        [
            (f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            (f"{attention}.o_proj",),
            (f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            (f"{mlp}.down_proj",),
        ]
    )


def test_a_head_of_experts_is_refused_by_name() -> None:
    config = with_mtp_layers(read_json(PICO / "pico-mixture/config.json"), 1)
    with pytest.raises(ScionError, match=r"mixture of experts[\s\S]*mtp\.quantize: none"):
        head_groups(inventory(config, where="here"))
