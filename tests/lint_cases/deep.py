"""Cases for the rules over tensor data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lint_cases import Case
from lint_checkpoints import Stored, edit_tensors

LAYER = "model.language_model.layers"
MLP = f"{LAYER}.0.mlp.up_proj"
ATTENTION = f"{LAYER}.1.self_attn.q_proj"


def overwrite(name: str, change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    """A way to break a checkpoint: change the bytes of a tensor, given as rows."""

    def break_it(folder: Path) -> None:
        def edit(tensors: dict[str, Stored]) -> None:
            stored = tensors[name]
            rows = np.frombuffer(stored.data, np.uint8).copy()
            change(rows.reshape(stored.shape[0] if stored.shape else 1, -1))
            tensors[name] = Stored(stored.dtype, stored.shape, rows.tobytes())

        edit_tensors(folder, edit)

    return break_it


def fill(name: str, value: int, *, rows: slice) -> Callable[[Path], None]:
    """A way to break a checkpoint: one value in each byte of some rows."""

    def change(data: np.ndarray) -> None:
        data[rows] = value

    return overwrite(name, change)


def put(name: str, values: bytes, *, row: int = 0, byte: int = 0) -> Callable[[Path], None]:
    """A way to break a checkpoint: a few bytes in one row."""

    def change(data: np.ndarray) -> None:
        data[row, byte : byte + len(values)] = np.frombuffer(values, np.uint8)

    return overwrite(name, change)


def zero_rows(name: str, about: str, **more) -> list[Case]:
    """Many rows zero, and one row zero."""
    many = fill(name, 0x80 if name.endswith("q_proj.weight") else 0, rows=slice(8, None))
    one = fill(name, 0, rows=slice(2, 3))
    return [
        Case("D701", many, f"{about}: most rows", subject=name, **more),
        Case("D705", one, f"{about}: one row", subject=name, **more),
    ]


COMPRESSED = "compressed-tensors"
CASES = [
    *zero_rows(f"{MLP}.weight", "bf16"),
    *zero_rows(f"{MLP}.weight", "NVFP4", spelling="modelopt"),
    *zero_rows(f"{MLP}.weight_packed", "NVFP4", spelling=COMPRESSED),
    *zero_rows(f"{MLP}.weight", "FP8", spelling="fp8"),
    *zero_rows(f"{ATTENTION}.weight", "minus zero", spelling="mixed"),
    Case(
        "D701",
        fill(f"{MLP}.weight_scale", 0, rows=slice(8, None)),
        "NVFP4: block scales",
        spelling="modelopt",
        subject=f"{MLP}.weight",
    ),
    Case(
        "D702",
        fill(f"{MLP}.weight_scale", 0x7E, rows=slice(None)),
        "every block scale at its maximum",
        spelling="modelopt",
        subject=f"{MLP}.weight_scale",
    ),
    Case(
        "D702",
        fill(f"{MLP}.weight_packed", 0x7F, rows=slice(None)),
        "every code at its maximum",
        spelling=COMPRESSED,
        subject=f"{MLP}.weight_scale",
    ),
    Case(
        "D703",
        put(f"{LAYER}.0.input_layernorm.weight", b"\xc0\x7f", row=1),
        "NaN in a norm",
        subject=f"{LAYER}.0.input_layernorm.weight",
    ),
    Case(
        "D703",
        put("mtp.fc.weight", b"\x80\xff", row=3, byte=6),
        "minus infinity in the MTP head",
        spelling="modelopt",
        subject="mtp.fc.weight",
    ),
    Case(
        "D703",
        put(f"{MLP}.weight", b"\xff", row=1, byte=5),
        "NaN in FP8",
        spelling="fp8",
        subject=f"{MLP}.weight",
    ),
    Case(
        "D704",
        put(f"{MLP}.weight_scale", b"\x00", row=1),
        "zero",
        spelling="modelopt",
        subject=f"{MLP}.weight_scale",
    ),
    Case(
        "D704",
        put(f"{MLP}.weight_scale", b"\x7f", row=1),
        "NaN",
        spelling=COMPRESSED,
        subject=f"{MLP}.weight_scale",
    ),
    Case(
        "D704",
        put(f"{MLP}.weight_scale", b"\xb8", row=1),
        "negative",
        spelling="mixed",
        subject=f"{MLP}.weight_scale",
    ),
]
