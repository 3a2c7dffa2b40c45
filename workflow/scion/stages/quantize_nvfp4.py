"""Quantize the language model to NVFP4 with nvidia-modelopt, calibrated.

ModelOpt owns the numbers: it calibrates and exports, and the packed weights and scales are taken
from its export byte for byte. Every tensor that stays unquantized is copied from the source's own
file, so it is bit-equal even where a loaded model would have cast it. The exclusion lists are
written out by Scion (`nvfp4.declared_exclusions`), because ModelOpt's do not name the MTP head.

An exception during calibration ends the stage: ModelOpt would still export, with scales that mean
nothing.
"""

import importlib.metadata
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from tqdm import tqdm
from transformers import AutoTokenizer, Qwen3_5ForCausalLM

from scion.architectures import Inventory, inventory
from scion.artifact import Artifact, Draft, remake
from scion.calibration import Rows, Sample, read_rows, summary, tokenize
from scion.checkpoint import INDEX, Checkpoint, Piece, write_shards
from scion.config_conversion import Quantization
from scion.config_section import Section
from scion.errors import ScionError
from scion.files import write_json
from scion.nvfp4_config import (
    HF_QUANT_CONFIG,
    SUFFIXES,
    declared_exclusions,
    hf_quant_config,
    quantization_config,
)
from scion.stage_cli import add_settings, read_settings, run_stage, stage_parser

RECIPES = {"nvfp4_default": mtq.NVFP4_DEFAULT_CFG}
MODELOPT = "nvidia-modelopt"


class Settings(Section):
    """The sections of the configuration that this stage reads."""

    quantization: Quantization


def quantize_nvfp4(
    *, text: Artifact, output: Path, settings: Quantization, environment: str
) -> Artifact:
    """Make the NVFP4 checkpoint of a bf16 one.

    Args:
        text: The bf16 checkpoint, of sound keys.
        output: Folder of the artifact to make.
        settings: Recipe, calibration set, device, shard size.
        environment: Identity of the locked environment.

    Returns:
        The artifact; its facts name quantizer, recipe, calibration and the number of modules.

    Raises:
        ScionError: A weight is not finite, the calibration set can't be used, or what ModelOpt
            exports is not what the architecture says.
    """
    inputs: dict[str, Artifact | Path] = {"text": text}
    for number, each in enumerate(settings.calibration.sets, start=1):
        if (local := Path(each.dataset)).is_file():
            inputs[f"calibration_{number}"] = local

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(text.folder)
        expected = inventory(checkpoint.config, where=text.folder / "config.json")
        # Before the model is loaded: a bad data set costs a second, not an hour.
        rows = read_rows(settings.calibration)
        with TemporaryDirectory(dir=draft.folder) as scratch:
            samples = _export(text.folder, Path(scratch), rows, settings)
            pieces = _pieces(checkpoint, Checkpoint.open(Path(scratch)), expected)
            write_shards(draft.folder, pieces, max_bytes=settings.max_shard_megabytes * 1_000_000)
        replaced = {"config.json", INDEX, *checkpoint.headers}
        draft.link_all(text, but=replaced)
        exclude = _write_configs(draft.folder, checkpoint, expected)
        draft.facts |= {
            "quantizer": {"name": MODELOPT, "version": importlib.metadata.version(MODELOPT)},
            "recipe": settings.recipe,
            "quantized_modules": len(expected.quantized),
            "excluded": exclude,
            "calibration": summary(samples),
        }

    return remake(
        output,
        stage="quantize_nvfp4",
        inputs=inputs,
        settings=settings.model_dump(mode="json", exclude={"device"}),
        environment=environment,
        build=build,
    )


def _export(
    source: Path, target: Path, rows: Sequence[Rows], settings: Quantization
) -> list[Sample]:
    """Load, calibrate and export into `target`; returns the calibration samples."""
    device = _device(settings.device)
    model = _load(source, device)
    tokenizer = AutoTokenizer.from_pretrained(source)
    context = model.config.max_position_embeddings
    samples = list(tokenize(rows, tokenizer, settings.calibration, context=context))

    def forward(model: Any) -> None:
        for sample in tqdm(samples, desc="calibrating", unit="sample", file=sys.stderr):
            model(input_ids=sample.ids.to(device), use_cache=False, logits_to_keep=1)

    with torch.no_grad(), _one_thread(device):
        mtq.quantize(model, RECIPES[settings.recipe], forward)
    # ModelOpt's exporter reads the class from here; a text config comes without it.
    model.config.architectures = [type(model).__name__]
    print("exporting packed weights", file=sys.stderr)
    export_hf_checkpoint(model, export_dir=target)
    return samples


@contextmanager
def _one_thread(device: str) -> Generator[None]:
    """Calibrate with one CPU thread: no library promises equal sums for any number of them."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ScionError(
            "no GPU to calibrate on",
            where="quantization.device",
            expected="a CUDA device that torch sees",
            found="none",
            hint="set quantization.device to cpu or auto",
        )
    return wanted


def _load(folder: Path, device: str) -> Any:
    loaded: Any = Qwen3_5ForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map=device, output_loading_info=True
    )
    model, report = loaded
    if report["missing_keys"] or report["mismatched_keys"]:
        raise ScionError(
            "transformers does not find all weights of the checkpoint",
            where=folder,
            expected="no missing and no mismatched keys",
            found=f"missing {sorted(report['missing_keys'])[:3]}, "
            f"mismatched {sorted(report['mismatched_keys'])[:3]}",
            hint="compare config.json with the shards; run the workflow from fetch_source",
        )
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ScionError(
                "a weight is not finite",
                where=f"{folder}: {_tensor_name(name)}",
                expected="finite numbers",
                found="NaN or infinity",
                hint="the source checkpoint is broken: ask its author, or choose another revision",
            )
    return model.eval()


def _tensor_name(parameter: str) -> str:
    """The checkpoint's name of a parameter of the text-only class."""
    prefix = "model."
    if not parameter.startswith(prefix):
        return parameter
    return f"{prefix}language_model.{parameter.removeprefix(prefix)}"


def _pieces(checkpoint: Checkpoint, export: Checkpoint, expected: Inventory) -> list[Piece]:
    """Each source tensor, or in its place the four tensors of the quantized module."""
    _check_export(export, expected)
    quantized = set(expected.quantized)
    pieces: list[Piece] = []
    for name in checkpoint.shard_of:
        module = name.removesuffix(".weight")
        if module in quantized:
            pieces += [export.piece(f"{module}.{suffix}") for suffix in SUFFIXES]
        else:
            pieces.append(checkpoint.piece(name))
    return pieces


def _check_export(export: Checkpoint, expected: Inventory) -> None:
    found = {
        name.removesuffix(".weight_scale")
        for name in export.shard_of
        if name.endswith(".weight_scale")
    }
    if found != set(expected.quantized):
        differing = sorted(found ^ set(expected.quantized))
        raise ScionError(
            "ModelOpt quantized other modules than the architecture says",
            where=f"{differing[0]} and {len(differing) - 1} more",
            expected=f"{len(expected.quantized)} quantized modules",
            found=f"{len(found)}",
            hint=f"this workflow knows {MODELOPT} 0.47: run it from its locked environment",
        )


def _write_configs(folder: Path, checkpoint: Checkpoint, expected: Inventory) -> list[str]:
    """Write config.json and hf_quant_config.json from one list; returns that list."""
    exclude = declared_exclusions(
        expected.kept,
        head="lm_head.weight" in expected.language,
        vision=bool(expected.vision),
    )
    producer = {"name": "modelopt", "version": importlib.metadata.version(MODELOPT)}
    scheme = quantization_config(exclude, producer=producer)
    write_json(folder / "config.json", {**checkpoint.config, "quantization_config": scheme})
    write_json(folder / HF_QUANT_CONFIG, hf_quant_config(scheme))
    return exclude


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"text": "manifest of extract_text"})
    add_settings(parser, Settings)
    args = parser.parse_args()

    return run_stage(
        lambda: quantize_nvfp4(
            text=Artifact.open(args.text),
            output=args.output.parent,
            settings=read_settings(args.settings, Settings).quantization,
            environment=args.environment,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
