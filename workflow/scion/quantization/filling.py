"""Fills the artifact of a quantized checkpoint: samples, layers, shards, configuration files.

This is what `quantize_nvfp4` does once it is known that the store has no such artifact. It stands
apart because ModelOpt takes seconds to import.
"""

import contextlib
import importlib.metadata
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact, Draft
from scion.checkpoint.experts_apart import experts_apart
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.common.devices import device_named
from scion.common.errors import NoRoomError, ScionError
from scion.formats.modelopt import FP8
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.hub_rows import HubData
from scion.quantization.calibration.samples import read_samples, summary
from scion.quantization.config import CALIBRATION_FILES, Quantization
from scion.quantization.expert_coverage import coverage
from scion.quantization.layerwise.stream import QuantizationTarget, Stream
from scion.quantization.output_files import MODELOPT, copy_kept, lay_out, write_configs
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.recipe_table import require_recipe_fits
from scion.quantization.recipes import recipe
from scion.quantization.weights_only import pack_all, scales_digest


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
        """Called when the files are there."""
        ...


def fill(
    draft: Draft,
    text: Artifact,
    settings: Quantization,
    *,
    given: dict[str, torch.Tensor] | None,
    locks: Sequence[Path] = (),
    watch: Watching | None,
) -> None:
    """Quantize a checkpoint into a draft.

    Args:
        draft: The artifact in the making; finished layers go into its `work`.
        text: The bf16 checkpoint, of sound keys.
        settings: Recipe, calibration sets, device, shard size.
        given: Activation scales to take instead of calibrating, none for activations that stay as
            they are; None to calibrate.
        locks: Say what the files of data sets of the hub have to be.
        watch: Is told how the run goes.

    Raises:
        ScionError: A weight is not finite, a calibration set can't be used, ModelOpt stops, or
            disk or GPU are too small.
    """
    checkpoint = Checkpoint.open(text.folder)
    expected = inventory(checkpoint.config, where=text.folder / "config.json")
    apart = experts_apart(checkpoint, expected.layer_stacks)
    chosen = recipe(
        settings.recipe,
        keep_bf16=settings.keep_bf16,
        use_fp8=settings.use_fp8,
        four_bits=settings.four_bits,
    )
    require_recipe_fits(chosen.row, expected)
    device = device_named(settings.device, where="quantization.device")
    hub = HubData(locks)
    samples = [] if given is not None else read_samples(checkpoint, settings.calibration, hub)
    batches = pack(samples, settings.calibration.pack_tokens)
    if watch is not None and given is None:
        lengths = [batch.lengths for batch in batches]
        watch.before(checkpoint, settings, lengths, device=device, work=draft.work)
    quantized = chosen.quantized(expected)
    shards = lay_out(
        apart,
        quantized,
        # Finished layers of a run that was stopped.
        draft.work,
        request=draft.recipe,
        max_megabytes=settings.max_shard_megabytes,
    )
    with _kept_if_stopped(shards):
        copied = copy_kept(apart, quantized, shards)
        if given is None:
            Stream(
                checkpoint, expected, [QuantizationTarget(chosen, shards)], batches, device
            ).run()
        else:
            pack_all(apart, list(quantized), expected.groups, given, shards)
        copied.result()
        shards.link_into(draft.folder)
        draft.known_tensors |= shards.digests()
        checksums = {module: shards.checksums[module] for module in chosen.unproven(quantized)}
        experts = coverage(shards.tokens)
    draft.link_all(text, but={"config.json", INDEX, *checkpoint.headers})
    exclude = write_configs(draft.folder, checkpoint, expected, quantized)
    draft.facts |= {
        "quantizer": {"name": MODELOPT, "version": importlib.metadata.version(MODELOPT)},
        "recipe": chosen.record(),
        "quantized_modules": len(quantized),
        "fp8_modules": sum(algorithm == FP8 for algorithm in quantized.values()),
        "scale_checksums": checksums,
        "excluded": exclude,
        "calibration": summary(samples),
        **({CALIBRATION_FILES: hub.read} if hub.read else {}),
        **({"experts": experts} if experts else {}),
        "input_scales": scales_digest(given) if given else None,
    }
    if watch is not None:
        watch.after()


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
