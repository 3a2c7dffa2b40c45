"""NVFP4 matrices; tests/e2e/test_offline_acceptance.py compares them with vLLM's own functions."""

import pytest
import torch

from scion.evaluation.offline import linear
from scion.evaluation.offline.linear import NvFp4Linear, round_activations
from scion.formats.nvfp4 import dequantize

PACKED = torch.randint(
    0, 256, (10, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
SCALE = torch.linspace(1, 400, 30).view(10, 3).to(torch.float8_e4m3fn)
GLOBAL = torch.tensor(0.0123)


@pytest.mark.parametrize("rows", [3, 5, 4096])
def test_weights_decode_in_parts(rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linear, "_ROWS", rows)
    layer = NvFp4Linear(PACKED, SCALE, GLOBAL, input_scale=None, keep=False)
    assert torch.equal(layer.decode(), dequantize(PACKED, SCALE, GLOBAL).bfloat16())


@pytest.mark.parametrize("scale", [None, torch.tensor(0.01)])
def test_keeping_changes_no_bit(scale: torch.Tensor | None):
    x = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
    layers = [NvFp4Linear(PACKED, SCALE, GLOBAL, input_scale=scale, keep=k) for k in (False, True)]
    decoded, kept = (layer(x) for layer in layers)
    assert decoded.shape == (2, 3, 10)
    assert torch.equal(decoded, kept)
    rounded = x if scale is None else round_activations(x, scale)
    assert torch.equal(decoded, rounded @ layers[0].decode().T)


def test_activations_become_the_nearest_numbers():
    # The largest of a block is 6 times a power of two, so its scale is that power and exact.
    x = torch.tensor([6, 5.1, 5, 4.9, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25, 0.26, 0, -5, -0.3, -6, 1])
    nearest = [6, 6, 4, 4, 4, 2, 2, 1, 1, 0, 0.5, 0, -4, -0.5, -6, 1]
    for power in (0.25, 1.0, 8.0):
        assert (round_activations(x * power, torch.tensor(1.0)) / power).tolist() == nearest


def test_blocks_do_not_mix_and_zeros_stay():
    x = torch.zeros(1, 48)
    x[0, :16], x[0, 16:32] = 600, 0.006
    rounded = round_activations(x, torch.tensor(0.25))
    assert rounded[0, :16].eq(600).all() or (rounded[0, :16] / 600 - 1).abs().max() < 1 / 16
    assert rounded[0, 32:].eq(0).all()
    assert not rounded.isnan().any()


def test_activations_beyond_the_range_are_clipped():
    x = torch.full((1, 16), 1e4)
    assert round_activations(x, torch.tensor(1.0)).unique().item() == 6 * 448
