"""The command line of `scion estimate`: what a quantization will take, before it is started."""

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scion.architectures.families import released_classes
from scion.common.errors import ScionError
from scion.common.text import printable, printable_json, size

if TYPE_CHECKING:
    from scion.checkpoint.shards import Checkpoint
    from scion.engines.gpus import Gpu
    from scion.quantization.config import Quantization
    from scion.quantization.estimate.estimate import Machine, ResourceEstimate
    from scion.quantization.estimate.rates import Rates

_DESCRIPTION = f"""\
Say what quantizing a checkpoint will take: bytes read and written, room on the disk, memory of the
GPU and of the host, operations, and the least time, each with what it is made of. Only config.json
and the headers of the shards are read; of a repository on the hub only those are moved.
For {released_classes()}."""

_EPILOG = """\
examples:
  scion estimate config/releases/X.yaml
  scion estimate config/releases/X.yaml --recipe local_hessian --gpu h100
  scion estimate results/X/extract_text --samples 512 --tokens 2048
  scion estimate hf://owner/name --gpu rtx-5090 --host-gib 60 --json

Samples are taken to be as long as they may be (a set's max_tokens, and the model's context), since
no text is read; --tokens says how long they are. quantize_nvfp4 prints the same estimate of the
samples themselves before it starts, and afterwards what it used beside it.

The bytes of the shards are exact. Memory is the sum of what must be there and of upper estimates.
Time is a floor: what there is to read, write or multiply at the rates that are named. Without
--gpu they are measured on this machine, in about two seconds and with torch; with it they are the
GPU's published peaks and this machine's disk. Downloads are not counted.

exit codes:
  0  it fits, as far as can be told
  1  it does not fit, or could not be judged
"""


def add_estimate(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the parser of `scion estimate`, which calls `run` with what it has read."""
    parser = add_parser(
        "estimate",
        help="say what quantizing a checkpoint will take: time, memory, disk",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="CONFIG_OR_FOLDER",
        help="a release's YAML file, or a bf16 checkpoint: a folder or hf://owner/name[@revision]",
    )
    changes = parser.add_argument_group("what is changed in the configuration")
    changes.add_argument("--recipe", metavar="NAME", help="quantization.recipe")
    changes.add_argument(
        "--keep-bf16", metavar="NAME", help="quantization.keep_bf16: none, linear_attention, …"
    )
    changes.add_argument(
        "--use-fp8", metavar="NAME", help="quantization.use_fp8: none, linear_attention, …"
    )
    changes.add_argument(
        "--activations", metavar="NAME", help="quantization.activations: nvfp4 or bf16"
    )
    changes.add_argument("--samples", type=_count, metavar="N", help="samples in all")
    changes.add_argument("--tokens", type=_count, metavar="N", help="tokens of each sample")
    changes.add_argument(
        "--pack-tokens", type=_count, metavar="N", help="quantization.calibration.pack_tokens"
    )
    where = parser.add_argument_group("where it shall run (default: here)")
    where.add_argument("--gpu", metavar="NAME", help="a GPU of `scion launch --list-gpus`")
    where.add_argument("--host-gib", type=_gib, metavar="X", help="free host memory there")
    where.add_argument(
        "--disk",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="where results go, for its room and speed (default: the current folder)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=run)


def estimate(args: argparse.Namespace) -> int:
    """Run `scion estimate`.

    Returns:
        The exit code.

    Raises:
        ScionError: No such file, checkpoint, recipe or GPU, or one of another family.
    """
    from scion.quantization.estimate.estimate import estimate as make
    from scion.quantization.estimate.report import duration, lines, record

    _require_folder(args.disk)
    checkpoint, settings = _asked(args)
    gpu, machine = _machine(args, settings)
    result = make(checkpoint, settings, _batches(args, checkpoint, settings), machine)
    rates = _rates(args, checkpoint, gpu, machine)
    fits, verdict = _verdict(result, args.disk)
    bound = ""
    if rates is not None:
        seconds, bound_by = result.floor(rates)
        bound = f"; {duration(seconds)} or more, bounded by {bound_by}"
    if args.json:
        print(printable_json({**record(result, rates), "fits": fits, "verdict": verdict}))
    else:
        print("\n".join(map(printable, lines(result, rates))))
        if rates is None:
            print(f"  time: {_untimed(gpu)}")
        print(f"\n{verdict}{bound}")
    return 0 if fits else 1


def _require_folder(disk: Path) -> None:
    if not disk.is_dir():
        raise ScionError(
            "--disk names no folder",
            where=disk,
            expected="a folder on the disk that results will go to",
            found="something else" if os.path.lexists(disk) else "nothing of that name",
            hint="name one that is there, such as the folder that the workflow runs in",
        )
    if not os.access(disk, os.W_OK | os.X_OK):
        raise ScionError(
            "--disk can't be written",
            where=disk,
            expected="a folder that this user may write to: its speed is measured by a file in it",
            found="no right to write",
            hint="name another folder on the same disk",
        )


def _asked(args: argparse.Namespace) -> "tuple[Checkpoint, Quantization]":
    """The checkpoint to quantize, and how: the configuration with the options' changes."""
    from scion.config import Config, read_config
    from scion.quantization.estimate.source_headers import source_headers

    is_config = args.source.endswith((".yaml", ".yml"))
    config = read_config(Path(args.source)) if is_config else Config()
    checkpoint = source_headers(config.source if is_config else args.source).text
    return checkpoint, _changed(config.quantization, args)


def _changed(settings: "Quantization", args: argparse.Namespace) -> "Quantization":
    from pydantic import ValidationError

    from scion.quantization.config import Quantization

    options = ("recipe", "keep_bf16", "use_fp8", "activations")
    changes = {option: getattr(args, option) for option in options}
    values = settings.model_dump() | {k: v for k, v in changes.items() if v is not None}
    if args.pack_tokens is not None:
        values["calibration"]["pack_tokens"] = args.pack_tokens
    try:
        return Quantization.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ScionError(
            "an option has no such value",
            where=f"--{str((*first['loc'], 'use_fp8')[0]).replace('_', '-')}",
            expected=first["msg"],
            found=repr(first["input"]),
            hint="see config/default.yaml for what each means",
        ) from error


def _batches(
    args: argparse.Namespace, checkpoint: "Checkpoint", settings: "Quantization"
) -> list[list[int]]:
    """Tokens of the samples of each forward pass, as long as they may be; none if none is read."""
    from scion.architectures.inventory import inventory, language_keys
    from scion.checkpoint.shards import CONFIG
    from scion.quantization.calibration.batch_lengths import pack_lengths

    if not settings.calibrated:
        return []
    where = checkpoint.folder / CONFIG
    family = inventory(checkpoint.config, where=where).family
    text = language_keys(checkpoint.config, family, where=where)
    context = text.size("max_position_embeddings")
    calibration = settings.calibration
    lengths = [
        min(args.tokens or calibration_set.max_tokens, context)
        for calibration_set in calibration.sets
        for _ in range(calibration_set.samples)
    ]
    if args.samples is not None:
        # The sets in turn, so that more samples than configured are still of their lengths.
        lengths = [lengths[number % len(lengths)] for number in range(args.samples)]
    return [[lengths[n] for n in batch] for batch in pack_lengths(lengths, calibration.pack_tokens)]


def _machine(args: argparse.Namespace, settings: "Quantization") -> "tuple[Gpu | None, Machine]":
    from scion.common.memory import available_memory
    from scion.engines.gpus import GIB, find_gpu
    from scion.quantization.estimate.estimate import Machine

    free = available_memory() if args.host_gib is None else int(args.host_gib * GIB)
    if args.gpu is not None:
        gpu = find_gpu(args.gpu)
        return gpu, Machine(gpu.title, gpu.total_bytes, free)
    if not _is_torch_here():
        return None, Machine("this CPU (without torch no GPU is looked for)", None, free)
    # Torch takes seconds to import, which only asking this machine is worth.
    from scion.quantization.estimate.watch import machine

    local = machine(_device(settings.device))
    return None, Machine(local.name, local.gpu_bytes, free)


def _is_torch_here() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


def _device(name: str) -> Any:
    import torch

    on_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def _rates(
    args: argparse.Namespace, checkpoint: "Checkpoint", gpu: "Gpu | None", machine: "Machine"
) -> "Rates | None":
    from scion.quantization.estimate.rates import disk_rates, measured, published

    shards = [checkpoint.folder / shard for shard in checkpoint.headers]
    disk = disk_rates(args.disk, [shard for shard in shards if shard.is_file()])
    if gpu is not None:
        return published(gpu, disk)
    if not _is_torch_here():
        return None
    return measured("cpu" if machine.gpu_bytes is None else "cuda", disk)


def _untimed(gpu: "Gpu | None") -> str:
    """Why there is no time."""
    from scion.common.extras import install_command

    if gpu is not None:
        return f"no rates of {gpu.title} are known here"
    return f"not measured without torch; name a GPU by --gpu, or: {install_command('workflow')}"


def _verdict(result: "ResourceEstimate", disk: Path) -> tuple[bool, str]:
    """Whether all of it fits, and that in words."""
    from scion.quantization.estimate.memory import total

    gpu, free = result.machine.gpu_bytes, shutil.disk_usage(disk).free
    # What it does with less: hidden states go to the host, the next layer is read later.
    needs = [("disk", total(result.disk), free, total(result.disk))]
    if gpu is not None:
        needs.append(("GPU memory", total(result.device), gpu, result.least_device))
    needs.append(("host memory", total(result.host), result.machine.free_bytes, total(result.host)))
    needs_text = [f"{size(need)} of {size(available)} {name}" for name, need, available, _ in needs]
    short = [name for name, _, available, least in needs if least > available]
    tight = [name for name, need, available, least in needs if least <= available < need]
    if short:
        return False, f"does not fit, for lack of {' and '.join(short)}: {', '.join(needs_text)}"
    word = f"may fit, {' and '.join(tight)} is tight" if tight else "fits"
    return True, f"{word}: {', '.join(needs_text)}"


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of that size")
    return int(text)


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory in GiB")
    return value
