"""Errors about weights and samples that no scales follow from."""

from torch import Tensor

from scion.common.errors import ScionError


def not_finite(where: str) -> ScionError:
    """The error for a weight that holds NaN or infinity."""
    return ScionError(
        "a weight is not finite",
        where=where,
        expected="finite numbers",
        found="NaN or infinity",
        hint="the source checkpoint is broken: ask its author, or choose another revision",
    )


def no_scale(stored: str, amax: Tensor | None, input_amax: Tensor | None) -> ScionError:
    """The error for a module whose largest weight or input is none, or zero."""
    what = "weights" if amax is None or not amax.max() > 0 else "inputs"
    return ScionError(
        f"all {what} of a module are zero, so it has no scale",
        where=stored,
        expected="numbers of which the largest gives a scale",
        found=f"largest weight {amax if amax is None else amax.max().item()}, "
        f"largest input {input_amax if input_amax is None else input_amax.max().item()}",
        hint="the source is broken or the samples never reach the module: check both",
    )
