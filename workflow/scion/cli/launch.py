"""The command line of `scion launch`: the command that serves a release, and whether it fits."""

import argparse
import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scion.architectures.families import released_classes

if TYPE_CHECKING:
    from scion.checkpoint.shards import Checkpoint
    from scion.engines.config import Launch
    from scion.engines.loading.engine import Launcher
    from scion.engines.releases import EngineRelease
    from scion.engines.vllm.memory import Prediction

_DESCRIPTION = f"""\
Print the command that serves a checkpoint, what each flag is for, and what the launch would do with
a GPU's memory. Only config.json and the headers of the shards are read: no GPU, no torch, no
server, about a second. For {released_classes()}."""

_EPILOG = """\
examples:
  scion launch results/X/release --config config/releases/X.yaml
  scion launch results/X/release --config config/releases/X.yaml --launch small_context --gpu rtx-5090
  scion launch models/agent-nvfp4 --gpu h100 --max-model-len 65536 --max-num-seqs 8
  scion launch models/agent-nvfp4 --memory-gib 47.5 --engine vllm==0.19.1
  scion launch models/agent-nvfp4 --gpu rtx-pro-6000 --engine sglang
  scion launch --list-gpus
  scion launch results/X/release --config config/releases/X.yaml --no-prefix-caching \\
      --server-log logs/X/measure_serving.production.n3.server.log

Without --config the launch is: the context that config.json declares, 3 drafts if there is an MTP
head, and the engine's own defaults. Options replace what a launch says.

Bytes of weights and the cache's layout are exact for a vLLM release; activations, CUDA graphs and
what the allocator wastes are estimates, good to about a gigabyte on the servers that they were held
to. Memory that other programs hold on the GPU is not counted. --server-log shows the prediction
beside what a server of that launch printed.

exit codes:
  0  it fits, with or without warnings; or SGLang, of whose cache nothing is predicted
  1  it does not fit, or could not be judged
"""  # noqa: E501


def add_launch(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> None:
    """Add the parser of `scion launch`, which calls `run` with what it has read."""
    parser = add_parser(
        "launch",
        help="print the command that serves a release, and whether it fits a GPU",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the checkpoint")
    parser.add_argument("--config", type=Path, metavar="FILE", help="take a launch of this release")
    parser.add_argument("--launch", metavar="NAME", help="which one (default: its first)")
    parser.add_argument(
        "--engine",
        default="vllm",
        help="vllm, vllm==0.19.1 or another release that `scion lint` knows, sglang (default: "
        "the newest known vLLM)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--gpu", metavar="NAME", help="the GPU (default: the launch's)")
    where.add_argument(
        "--memory-gib", type=_positive, metavar="X", help="its memory, as CUDA reports it"
    )
    where.add_argument("--list-gpus", action="store_true", help="list the known GPUs instead")
    changes = parser.add_argument_group("what is changed in the launch")
    changes.add_argument("--max-model-len", type=_count, metavar="N", help="context in tokens")
    changes.add_argument("--max-num-seqs", type=_count, metavar="N", help="requests at once")
    changes.add_argument("--kv-cache-dtype", choices=("auto", "fp8"), help="the cache's dtype")
    changes.add_argument("--gpu-memory-utilization", type=_share, metavar="X", help="above 0, to 1")
    changes.add_argument(
        "--speculative-tokens", type=_count_or_zero, metavar="N", help="drafts a step"
    )
    changes.add_argument(
        "--no-prefix-caching",
        action="store_const",
        const=False,
        dest="prefix_caching",
        help="as Scion's own measurements serve (default: as the release of vLLM does)",
    )
    parser.add_argument(
        "--server-log",
        type=Path,
        metavar="FILE",
        help="what a vLLM server of this launch printed, to hold the prediction to",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")

    def consistent(args: argparse.Namespace) -> int:
        if not args.list_gpus and args.folder is None:
            parser.error("name a checkpoint's folder")
        if args.launch and not args.config:
            parser.error("--launch needs --config: the file that has the launch")
        return run(args)

    parser.set_defaults(run=consistent)


def launch(args: argparse.Namespace) -> int:
    """Run `scion launch`.

    Returns:
        The exit code.

    Raises:
        ScionError: No checkpoint, launch, engine or GPU of that name, or one that is not modelled.
    """
    from scion.architectures.families import family_of, vision_prefixes
    from scion.checkpoint.shards import Checkpoint
    from scion.cli.launch_report import (
        flag_lines,
        gpu_lines,
        memory_lines,
        reported_lines,
        unpredicted_lines,
    )
    from scion.engines.vllm.engine import VLLM
    from scion.formats.modelopt import MIXED

    if args.list_gpus:
        print("\n".join(gpu_lines()))
        return 0
    checkpoint = Checkpoint.open(args.folder)
    chosen = _launch(args, checkpoint)
    engine, launcher = _engine(args.engine)
    declared: Any = checkpoint.config.get("quantization_config")
    quantized = declared is not None
    text_only = not any(name.startswith(vision_prefixes()) for name in checkpoint.shard_of)
    mixed = quantized and declared.get("quant_algo") == MIXED
    options = launcher.flags(
        chosen,
        family_of(checkpoint.config),
        quantized=quantized,
        text_only=text_only,
        mixed=mixed,
    )
    command = " \\\n    ".join(
        [f"{launcher.start} {shlex.quote(str(args.folder))}", *(flag.text for flag in options)]
    )
    # Memory is modelled for vLLM alone.
    predicted = None
    if engine.name == VLLM.name:
        predicted = _predict(args, checkpoint, chosen, engine, text_only=text_only)
    record = predicted.record() if predicted else {"engine": str(engine), "verdict": None}
    beside = _beside(args.server_log, predicted, engine)
    if args.json:
        print(json.dumps({"command": command, **record, **beside}, indent=1))
    else:
        print("\n".join([command, "", *flag_lines(options), ""]))
        print("\n".join(memory_lines(predicted) if predicted else unpredicted_lines(engine)))
        print("\n".join(reported_lines(beside)), end="\n" if beside else "")
    return 1 if predicted is not None and predicted.verdict == "does not fit" else 0


def _beside(
    log: Path | None, predicted: "Prediction | None", engine: "EngineRelease"
) -> dict[str, Any]:
    """The prediction beside a server's log, as `beside_server`; empty if none is named."""
    from scion.common.errors import ScionError
    from scion.engines.registry.engines import engine_of
    from scion.engines.vllm.log import capacity
    from scion.engines.vllm.memory import compare_with_server

    if log is None:
        return {}
    if not log.is_file():
        raise ScionError(
            "the server's log is not there",
            where=log,
            expected="what a vLLM server printed",
            found="no such file",
            hint="name a log below logs/, or save the output of vllm serve",
        )
    pairs = compare_with_server(predicted.record(), capacity(log)) if predicted else {}
    if not pairs:
        raise ScionError(
            "there is nothing to compare",
            where=log,
            expected="a vLLM launch, and a log with a line such as `GPU KV cache size: … tokens`",
            found="neither cache nor memory"
            if predicted
            else f"a launch of {engine_of(engine).title}",
            hint="name the log of a server that became ready",
        )
    return {"beside_server": pairs}


def _launch(args: argparse.Namespace, checkpoint: "Checkpoint") -> "Launch":
    """The launch that is named, or the plain one, with the options' changes."""
    from scion.architectures.families import head_prefixes
    from scion.common.errors import ScionError
    from scion.engines.config import Launch

    has_head = any(name.startswith(head_prefixes()) for name in checkpoint.shard_of)
    if args.config is not None:
        from scion.config import read_config

        chosen = _named(read_config(args.config).launches, args.launch, args.config)
    else:
        from scion.architectures.inventory import inventory, language_keys

        where = args.folder / "config.json"
        family = inventory(checkpoint.config, where=where).family
        text = language_keys(checkpoint.config, family, where=where)
        chosen = Launch(
            name="plain",
            title="Plain",
            max_model_len=text.size("max_position_embeddings"),
            speculative_tokens=3 if has_head else 0,
        )
    changed = {
        name: getattr(args, name)
        for name in ("max_model_len", "max_num_seqs", "kv_cache_dtype", "gpu_memory_utilization")
        if getattr(args, name) is not None
    }
    if args.speculative_tokens is not None:
        changed["speculative_tokens"] = args.speculative_tokens
    chosen = chosen.model_copy(update=changed)
    if chosen.speculative_tokens and not has_head:
        raise ScionError(
            "the launch drafts with an MTP head that the checkpoint does not have",
            where=args.folder,
            expected=f"{' or '.join(f'{prefix}*' for prefix in head_prefixes())} tensors",
            found="none",
            hint="add --speculative-tokens 0, or graft the head: see `scion lint --explain M301`",
        )
    return chosen


def _named(known: Iterable["Launch"], name: str | None, where: Path) -> "Launch":
    from scion.common.errors import ScionError

    by_name = {launch.name: launch for launch in known}
    if name is None:
        return next(iter(by_name.values()))
    if name not in by_name:
        raise ScionError(
            "the configuration has no such launch",
            where=where,
            expected=f"one of {', '.join(by_name)}",
            found=repr(name),
            hint="name one of them with --launch",
        )
    return by_name[name]


def _engine(text: str) -> "tuple[EngineRelease, Launcher]":
    """The newest release that is named, and how its server is started."""
    from scion.common.errors import ScionError
    from scion.engines.registry.engines import ENGINES, engine_of, parse_engine

    release = parse_engine(text)[-1]
    launcher = engine_of(release).launcher
    if launcher is None:
        written = (engine.name for engine in ENGINES.values() if engine.launcher is not None)
        raise ScionError(
            "launches are not written for this engine",
            where="--engine",
            expected=" or ".join(written),
            found=release,
            hint="leave --engine out for the newest known vLLM",
        )
    return release, launcher


def _predict(
    args: argparse.Namespace,
    checkpoint: "Checkpoint",
    chosen: "Launch",
    engine: "EngineRelease",
    *,
    text_only: bool,
) -> "Prediction":
    from scion.common.errors import ScionError
    from scion.engines.gpus import GIB, GPUS, find_gpu
    from scion.engines.vllm.memory import predict

    name: str | None = args.gpu or chosen.gpu
    note = ""
    if args.memory_gib is not None:
        total = int(args.memory_gib * GIB)
    elif name is not None:
        gpu = find_gpu(name)
        total, note = gpu.total_bytes, gpu.note
    else:
        raise ScionError(
            "neither the launch nor an option says on which GPU it shall run",
            where="--gpu",
            expected=f"one of {', '.join(gpu.name for gpu in GPUS)}",
            found="nothing",
            hint="add --gpu NAME, or --memory-gib X for another",
        )
    return predict(
        {tensor: checkpoint.tensor(tensor) for tensor in checkpoint.shard_of},
        checkpoint.config,
        chosen,
        total=total,
        engine=engine,
        where=args.folder / "config.json",
        text_only=text_only,
        note=note,
        prefix_caching=args.prefix_caching,
    )


def _count(text: str) -> int:
    value = _count_or_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value


def _count_or_zero(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of that size")
    return int(text)


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory in GiB")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: above 0, at most 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
