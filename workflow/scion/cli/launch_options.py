"""The options of `scion launch`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from scion.architectures.families import released_classes

_DESCRIPTION = f"""\
Print the command that serves a checkpoint, what each flag is for, and what the launch would do with
a GPU's memory. Errors that lint finds in the checkpoint are named. Only configs, the index and the
headers of the shards are read: no GPU, no torch, no server, about a second.
For {released_classes()}."""

_EPILOG = """\
examples:
  scion launch results/X/release --config config/releases/X.yaml
  scion launch results/X/release --config config/releases/X.yaml --launch small_context --gpu rtx-5090
  scion launch models/agent-nvfp4 --gpu h100 --max-model-len 65536 --max-num-seqs 8
  scion launch models/agent-nvfp4 --memory-gib 47.5 --engine vllm==0.19.1
  scion launch models/agent-nvfp4 --gpu rtx-pro-6000 --engine sglang
  scion launch results/X/release --config config/releases/X.yaml --cpu
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
  0  it fits, with or without warnings; or SGLang or a CPU, of whose cache nothing is predicted
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
    where.add_argument(
        "--cpu",
        action="store_true",
        help="the command of vLLM's CPU build, as `nix develop .#serve-cpu` has it; no memory",
    )
    where.add_argument("--list-gpus", action="store_true", help="list the known GPUs instead")
    changes = parser.add_argument_group("what is changed in the launch")
    changes.add_argument("--max-model-len", type=_count, metavar="N", help="context in tokens")
    changes.add_argument("--max-num-seqs", type=_count, metavar="N", help="requests at once")
    changes.add_argument(
        "--tensor-parallel", type=_count, metavar="N", help="GPUs that share every layer"
    )
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
        if args.cpu and not args.engine.startswith("vllm"):
            parser.error("--cpu is written for vLLM alone: leave it or --engine out")
        return run(args)

    parser.set_defaults(run=consistent)


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
