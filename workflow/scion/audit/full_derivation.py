"""Quantizing done again as the release records it, and every tensor of it compared bit by bit.

What samples chose can't be derived from weights: block scales of a search, moved weights, the
scales of activations. With the calibration samples at hand, the stages from `fetch_source` to
`quantize_nvfp4` are run again, in a folder that is removed afterwards, with the recorded settings.

Equal bytes prove it. A GPU sums in another order than a CPU, so near ties are decided otherwise
there: of a release that was made on one, some activation scales and chosen block scales are others,
and after GPTQ many codes are. docs/measurements/calibration-devices.json has how many of each
recipe; up to about twice as many are taken for that and told, and more contradict the release. What
follows from weights and stored scales alone is held bit by bit by `scion.audit.origin`, on whatever
device it was made.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from scion.artifacts.file_tree import FileTree, read_object
from scion.artifacts.making import Output
from scion.artifacts.release_layout import PROVENANCE
from scion.audit.equality import Pairs, unequal
from scion.audit.origin import Original
from scion.audit.stored import StoredTensors, stored_tensors
from scion.audit.verdict import Fault, PartVerdict, ProofLevel
from scion.audit.weights import Extent, RangedCheckpoint
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.quantization.config import Quantization
from scion.quantization.recipe_table import recipe_row
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.quantize_nvfp4 import quantize_nvfp4

FULL_DERIVATION = "full derivation"
_QUANTIZED = "quantize_nvfp4"
# Nothing of these artifacts is kept, and no recipe is looked up.
_ENVIRONMENT = "sha256:audit"


def audit_in_full(tree: FileTree, release: RangedCheckpoint, source: str) -> PartVerdict:
    """Quantize the source again, and compare.

    Args:
        tree: The files of the sealed release.
        release: Its tensors.
        source: The location of its source.

    Raises:
        ScionError: The source can't be used, or ModelOpt stops.
    """
    manifest = read_object(tree, f"{PROVENANCE}/{_QUANTIZED}.json")
    settings = _settings(manifest)
    lacking = list(_lacking(manifest, settings))
    if lacking:
        told = f"the calibration samples are not at hand: {', '.join(lacking)}"
        return PartVerdict(FULL_DERIVATION, ProofLevel.UNPROVED, told, 0)
    with tempfile.TemporaryDirectory(prefix="scion-audit-") as name:
        folder = Path(name)

        def output(stage: str) -> Output:
            return Output.at(folder / stage)

        fetched = fetch_source(
            location=source, output=output("fetch_source"), environment=_ENVIRONMENT
        )
        fixed = fix_keys(source=fetched, output=output("fix_keys"), environment=_ENVIRONMENT)
        text = extract_text(fixed=fixed, output=output("extract_text"), environment=_ENVIRONMENT)
        made = quantize_nvfp4(
            text=text, output=output(_QUANTIZED), settings=settings, environment=_ENVIRONMENT
        )
        again = RangedCheckpoint.open(str(made.folder))
        sound = Original.of(RangedCheckpoint.open(str(fixed.folder))).sound(release)
        return _compared(
            stored_tensors(release, sound),
            stored_tensors(again, sound),
            compensated=recipe_row(settings.recipe).compensated,
        )


def _settings(manifest: Mapping[str, Any]) -> Quantization:
    try:
        return Quantization.model_validate({**manifest.get("settings", {}), "device": "cpu"})
    except (TypeError, ValidationError) as error:
        raise ScionError(
            "the recorded settings are none that Scion quantizes by",
            where=f"{PROVENANCE}/{_QUANTIZED}.json: settings",
            expected="the section quantization of a configuration",
            found=str(error).splitlines()[0],
            hint="use the version of Scion that made the release, or audit without --deep",
        ) from error


def _lacking(manifest: Mapping[str, Any], settings: Quantization) -> list[str]:
    """The calibration sets that are not here as they were."""
    if not settings.calibrated:
        # Scales that were given, not calibrated, are of another checkpoint.
        return ["input_scales of another checkpoint"] if settings.input_scales else []
    recorded = {
        entry["sha256"] for entry in manifest.get("made_from", {}).values() if "file" in entry
    }
    local = [Path(each.dataset) for each in settings.calibration.sets]
    return [
        str(path)
        for path in local
        if "://" not in str(path) and (not path.is_file() or digest_file(path) not in recorded)
    ]


def _compared(release: StoredTensors, again: StoredTensors, *, compensated: bool) -> PartVerdict:
    lacking = [
        name
        for name, module in again.modules.items()
        if name not in release.modules or release.modules[name].algorithm != module.algorithm
    ]
    faults = [
        Fault(name, "is not quantized as its recipe does", again.modules[name].algorithm, "another")
        for name in lacking
    ]
    chosen = ("weight_scale", "input_scale", *(("weight",) if compensated else ()))
    pairs = {
        f"{name}.{suffix}": (release.modules[name].parts[suffix], extent)
        for name, module in again.modules.items()
        if name not in lacking
        for suffix, extent in module.parts.items()
        if suffix in chosen
    }
    other = unequal(pairs, what=FULL_DERIVATION)
    told = f"{len(again.modules)} modules quantized again as recorded, on a CPU: "
    if not other:
        told += f"{len(pairs)} tensors of what samples chose are the same"
        return PartVerdict.of(FULL_DERIVATION, told, count=len(pairs), faults=faults)
    counts = [_Count.of(pairs, other, suffix) for suffix in chosen]
    faults += [
        Fault(name, "is not the scale that samples give", f"within {_INPUTS:g} times", f"{far:.4g}")
        for name, far in _far_inputs(pairs, other)
    ]
    faults += [
        Fault(count.suffix, "are not those that samples give", f"at most {count.most}", count.told)
        for count in counts
        if count.different > count.most
    ]
    told += f"{'; '.join(count.told for count in counts)}, as another device may choose"
    return PartVerdict.of(
        FULL_DERIVATION, told, count=len(pairs), faults=faults, otherwise=ProofLevel.BOUNDED
    )


# Shares of what another device chose otherwise, about twice what was seen.
_SHARES = {"weight_scale": 0.01, "weight": 0.4, "input_scale": 1.0}
# How many times as large a scale of activations may be: GPTQ, whose codes differ, made 1.077.
_INPUTS = 1.1


@dataclass(frozen=True)
class _Count:
    """How many bytes of tensors of one kind are others.

    Attributes:
        suffix: The kind.
        different: How many.
        total: Of how many.
    """

    suffix: str
    different: int
    total: int

    @classmethod
    def of(cls, pairs: Pairs, other: Mapping[str, str], suffix: str) -> "_Count":
        """Count them."""
        names = [name for name in pairs if name.endswith(f".{suffix}")]
        sizes = {name: pairs[name][0].tensor.size for name in names}
        if suffix == "input_scale":
            return cls(suffix, sum(name in other for name in names), len(names))
        different = sum(_different(*pairs[name]) for name in names if name in other)
        return cls(suffix, different, sum(sizes.values()))

    @property
    def most(self) -> int:
        """How many may be others on another device."""
        return int(_SHARES[self.suffix] * self.total)

    @property
    def told(self) -> str:
        """In words."""
        return f"{self.different} of {self.total} bytes of {self.suffix} others"


def _different(tensor: Extent, original: Extent) -> int:
    """How many bytes of two tensors differ; all where their forms do."""
    if tensor.form != original.form:
        return tensor.tensor.size
    raw = [bytearray().join(each.stream(0, each.tensor.size)) for each in (tensor, original)]
    ours, theirs = (np.frombuffer(each, np.uint8) for each in raw)
    return int((ours != theirs).sum())


def _far_inputs(pairs: Pairs, other: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name in other:
        if name.endswith(".input_scale"):
            ours, theirs = (each.number() for each in pairs[name])
            ratio = ours / theirs if theirs else math.inf
            if not 1 / _INPUTS <= ratio <= _INPUTS:
                yield name, ratio
