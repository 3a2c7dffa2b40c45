"""Quantize the language model to NVFP4 with nvidia-modelopt, calibrated, layer by layer.

Projections that the settings name stay in bf16 or become FP8 instead
(`scion.quantization.recipes`).

ModelOpt owns the numbers: it finds the scales of one decoder layer at a time, and what is packed is
what its own export would pack, byte for byte, though no more than two layers are ever loaded.
Every tensor that stays unquantized is copied from the source's own file, so it is bit-equal even
where a loaded model would have cast it. The exclusion lists are written out by Scion
(`nvfp4.declared_exclusions`), because ModelOpt's do not name the MTP head.

A run that is stopped leaves its finished layers in the store, under its recipe's name; the same
command goes on after them.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.shards import CONFIG, read_object
from scion.common.section import Section
from scion.quantization.config import Quantization
from scion.quantization.locked_samples import require_locked_samples
from scion.stages.common_options import (
    add_locks,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)

if TYPE_CHECKING:
    import torch

    from scion.quantization.filling import Watching


class QuantizationSettings(Section):
    """The sections of the configuration that this stage reads."""

    quantization: Quantization


def quantize_nvfp4(
    *,
    text: Artifact,
    output: Output,
    settings: Quantization,
    environment: str,
    locks: Sequence[Path] = (),
    watch: "Callable[[], Watching] | None" = None,
) -> Artifact:
    """Make the NVFP4 checkpoint of a bf16 one.

    Args:
        text: The bf16 checkpoint, of sound keys.
        output: Where the artifact goes.
        settings: Recipe, calibration sets, device, shard size.
        environment: Identity of the locked environment.
        locks: Say what the files of data sets of the hub have to be; none: nobody has locked them.
        watch: Makes what is told how the run goes, if there is something to do; nothing in the
            artifact depends on it.

    Returns:
        The artifact; its facts name quantizer, recipe, calibration and the number of modules.

    Raises:
        ScionError: A weight is not finite, a calibration set can't be used or is not what was
            locked, ModelOpt stops, or disk or GPU are too small.
    """
    inputs: dict[str, Artifact | Path] = {"text": text}
    request = settings.model_dump(mode="json", exclude={"device"})
    given = _given_scales(text, settings)
    if given is None:
        for number, each in enumerate(settings.calibration.sets, start=1):
            if (local := Path(each.dataset)).is_file():
                inputs[f"calibration_{number}"] = local
    else:
        # No sample is read.
        request["calibration"] = None
    if given:
        # Their values count, not where they were found.
        from scion.quantization.weights_only import scales_digest

        request["input_scales"] = scales_digest(given)

    def build(draft: Draft) -> None:
        # Here, because ModelOpt takes seconds to import, and the store may have the artifact.
        from scion.quantization.filling import fill

        fill(draft, text, settings, given=given, locks=locks, watch=watch and watch())

    artifact = remake(
        output,
        stage="quantize_nvfp4",
        inputs=inputs,
        settings=request,
        environment=environment,
        build=build,
    )
    require_locked_samples(artifact, locks)
    return artifact


def _given_scales(text: Artifact, settings: Quantization) -> "dict[str, torch.Tensor] | None":
    """The activation scales that stand in for samples; None where samples decide."""
    if settings.calibrated:
        return None
    if settings.input_scales is None:
        return {}
    from scion.quantization.recipes import recipe
    from scion.quantization.weights_only import read_input_scales

    config = read_object(text.folder / CONFIG)
    expected = inventory(config, where=text.folder / CONFIG)
    chosen = recipe(settings.recipe, keep_bf16=settings.keep_bf16)
    return read_input_scales(Path(settings.input_scales), list(chosen.quantized(expected)))


def _watch() -> "Watching":
    # By name: what it says changes no byte, so its code must not count as the stage's.
    return importlib.import_module("scion.quantization.estimate.watch").Watch()


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"text": "pointer of extract_text"})
    add_settings(parser, QuantizationSettings)
    add_locks(parser)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: quantize_nvfp4(
            text=output.store.open_pointer(args.text),
            output=output,
            settings=read_settings(args.settings, QuantizationSettings).quantization,
            environment=args.environment,
            locks=args.lock,
            watch=_watch,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
