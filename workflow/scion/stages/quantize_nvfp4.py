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

import contextlib
import importlib.metadata
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint, read_object
from scion.common.devices import device_named
from scion.common.errors import NoRoomError, ScionError
from scion.common.section import Section
from scion.formats.modelopt import FP8
from scion.formats.spellings import DEFAULT_SPELLING, Spelling
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.samples import read_samples, summary
from scion.quantization.config import Quantization
from scion.quantization.layerwise.stream import QuantizationTarget, Stream
from scion.quantization.output_files import MODELOPT, copy_kept, lay_out, write_configs
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.recipes import recipe
from scion.quantization.weights_only import pack_all, read_input_scales, scales_digest
from scion.stages.common_options import add_settings, read_settings, run_stage, stage_parser


class Watching(Protocol):
    """What a run tells before it begins and when it has ended.

    `scion.quantization.estimate.watch` listens.
    """

    def before(
        self,
        checkpoint: Checkpoint,
        settings: Quantization,
        batches: Sequence[Sequence[int]],
        *,
        device: torch.device,
        work: Path,
    ) -> None:
        """Called when the samples are known and nothing is written; may raise to stop the run."""
        ...

    def after(self) -> None:
        """Called when the artifact is there, also if it was there before."""
        ...


class QuantizationSettings(Section):
    """The sections of the configuration that this stage reads."""

    quantization: Quantization


def quantize_nvfp4(
    *,
    text: Artifact,
    output: Output,
    settings: Quantization,
    environment: str,
    watch: Watching | None = None,
    spelling: Spelling = DEFAULT_SPELLING,
) -> Artifact:
    """Make the NVFP4 checkpoint of a bf16 one.

    Args:
        text: The bf16 checkpoint, of sound keys.
        output: Where the artifact goes.
        settings: Recipe, calibration sets, device, shard size.
        environment: Identity of the locked environment.
        watch: Is told how the run goes; nothing in the artifact depends on it.
        spelling: How tensors are named, and the scheme declared.

    Returns:
        The artifact; its facts name quantizer, recipe, calibration and the number of modules.

    Raises:
        ScionError: A weight is not finite, a calibration set can't be used, ModelOpt stops, or
            disk or GPU are too small.
    """
    inputs: dict[str, Artifact | Path] = {"text": text}
    request = settings.model_dump(mode="json", exclude={"device"})
    if spelling != DEFAULT_SPELLING:
        request["spelling"] = spelling.name
    given = _given_scales(text, settings)
    if given is None:
        for number, each in enumerate(settings.calibration.sets, start=1):
            if (local := Path(each.dataset)).is_file():
                inputs[f"calibration_{number}"] = local
    else:
        # Their values count, not where they were found; and no sample is read.
        request |= {"input_scales": scales_digest(given), "calibration": None}

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(text.folder)
        expected = inventory(checkpoint.config, where=text.folder / "config.json")
        chosen = recipe(settings.recipe, keep_bf16=settings.keep_bf16, use_fp8=settings.use_fp8)
        device = device_named(settings.device, where="quantization.device")
        samples = [] if given else read_samples(checkpoint, settings.calibration)
        batches = pack(samples, settings.calibration.pack_tokens)
        if watch is not None and given is None:
            lengths = [batch.lengths for batch in batches]
            watch.before(checkpoint, settings, lengths, device=device, work=draft.work)
        quantized = chosen.quantized(expected)
        shards = lay_out(
            checkpoint,
            quantized,
            # Finished layers of a run that was stopped.
            draft.work,
            request=draft.recipe,
            max_megabytes=settings.max_shard_megabytes,
            spelling=spelling,
        )
        with _kept_if_stopped(shards):
            copied = copy_kept(checkpoint, quantized, shards)
            if given is None:
                Stream(
                    checkpoint, expected, [QuantizationTarget(chosen, shards)], batches, device
                ).run()
            else:
                pack_all(checkpoint, list(quantized), expected.groups, given, shards)
            copied.result()
            shards.link_into(draft.folder)
            draft.known_tensors |= shards.digests()
        draft.link_all(text, but={"config.json", INDEX, *checkpoint.headers})
        exclude = write_configs(draft.folder, checkpoint, expected, quantized, spelling)
        draft.facts |= {
            "quantizer": {"name": MODELOPT, "version": importlib.metadata.version(MODELOPT)},
            "recipe": chosen.record(),
            "quantized_modules": len(quantized),
            "fp8_modules": sum(algorithm == FP8 for algorithm in quantized.values()),
            "excluded": exclude,
            "calibration": summary(samples),
            "input_scales": None if given is None else scales_digest(given),
        }

    artifact = remake(
        output,
        stage="quantize_nvfp4",
        inputs=inputs,
        settings=request,
        environment=environment,
        build=build,
    )
    if watch is not None:
        watch.after()
    return artifact


def _given_scales(text: Artifact, settings: Quantization) -> dict[str, torch.Tensor] | None:
    """The activation scales that the configuration names instead of samples."""
    if settings.input_scales is None:
        return None
    config = read_object(text.folder / CONFIG)
    expected = inventory(config, where=text.folder / CONFIG)
    chosen = recipe(settings.recipe, keep_bf16=settings.keep_bf16)
    return read_input_scales(Path(settings.input_scales), list(chosen.quantized(expected)))


@contextlib.contextmanager
def _kept_if_stopped(shards: PlannedShards) -> Generator[None]:
    """Close the shards; keep those of a run that was stopped, and say so."""
    try:
        yield
    except ScionError as error:
        shards.close()
        # Another source, other samples: nothing of this run can be used then.
        if not isinstance(error, NoRoomError):
            shards.discard()
        raise
    except KeyboardInterrupt:
        shards.close()
        print(f"{len(shards.finished)} finished parts are kept; run again to go on after them")
        raise
    finally:
        shards.close()


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"text": "pointer of extract_text"})
    add_settings(parser, QuantizationSettings)
    args = parser.parse_args()
    # By name: what it says changes no byte, so its code must not count as the stage's.
    watching: Any = importlib.import_module("scion.quantization.estimate.watch")

    return run_stage(
        args,
        lambda output: quantize_nvfp4(
            text=output.store.open_pointer(args.text),
            output=output,
            settings=read_settings(args.settings, QuantizationSettings).quantization,
            environment=args.environment,
            watch=watching.Watch(),
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
