"""Quantize a checkpoint once, layer by layer or with ModelOpt's plain path, and tell what it took.

    python bench/support/quantize_once.py stream SOURCE OUT --warm-up TINY --samples 4 --tokens 128

Before the time is taken the same is done to TINY, a checkpoint of few layers of the same width, so
that kernels are compiled; the peak of memory is set back after it. Prints one line of JSON; the
SHA-256 of each tensor of quantized modules goes to OUT/digests.json.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modelopt
import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.export import export_hf_checkpoint
from transformers import Qwen3_5ForCausalLM

from scion.architectures import inventory
from scion.calibration import Sample
from scion.checkpoint import Checkpoint
from scion.config_conversion import CalibrationSet, Quantization
from scion.digest import digest_file, in_parallel
from scion.files import write_json
from scion.nvfp4_config import SUFFIXES
from scion.packed_samples import pack
from scion.quantizing.estimate import estimate
from scion.quantizing.estimate_memory import total
from scion.quantizing.rates import disk_rates, measured
from scion.quantizing.recipes import recipe
from scion.quantizing.stream import Stream, Target, one_thread
from scion.quantizing.torch_kernels import on_cpu
from scion.quantizing.watch import machine
from scion.stages.quantize_nvfp4 import copy_kept, lay_out

# Ids that every vocabulary of the family has.
_IDS = 700


def samples(count: int, tokens: int) -> list[Sample]:
    """Random ids, the same for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    ids = (torch.randint(0, _IDS, (1, tokens), generator=generator) for _ in range(count))
    return [Sample(one, 0, CalibrationSet(), tokens) for one in ids]


def stream(source: Path, out: Path, found: list[Sample], device: torch.device, args: Any) -> Path:
    """By `scion.quantizing`; the folder of the shards."""
    checkpoint = Checkpoint.open(source)
    expected = inventory(checkpoint.config, where=source)
    chosen = recipe(args.recipe)
    quantized = chosen.quantized(expected)
    shards = lay_out(
        checkpoint, quantized, out / "shards", request="sha256:benchmark", max_megabytes=5000
    )
    if args.kill_after is not None:
        threading.Thread(target=_kill, args=(shards.finished, args.kill_after), daemon=True).start()
    run = Stream(checkpoint, expected, [Target(chosen, shards)], pack(found, None), device)
    copied = copy_kept(checkpoint, quantized, shards)
    run.run()
    copied.result()
    shards.close()
    release = out / "release"
    release.mkdir()
    shards.link_into(release)
    return release


def _kill(finished: dict[str, Any], layers: int) -> None:
    """End this process, as a machine that is switched off does, once so many layers are done."""
    while sum(".layers." in part for part in list(finished)) < layers:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)


def resident(source: Path, out: Path, found: list[Sample], device: torch.device, args: Any) -> Path:
    """By ModelOpt's plain path: the model loaded whole, quantized, exported."""
    model: Any = Qwen3_5ForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    model = model.to(device)

    def forward(model: Any) -> None:
        for sample in found:
            model(input_ids=sample.ids.to(device), use_cache=False)

    kernels = on_cpu() if device.type == "cpu" else contextlib.nullcontext()
    with torch.no_grad(), kernels, one_thread(device):
        mtq.quantize(model, recipe(args.recipe).config, forward)
        model.config.architectures = ["Qwen3_5ForCausalLM"]
        export_hf_checkpoint(model, export_dir=out / "release")
    return out / "release"


WAYS: dict[str, Callable[..., Path]] = {"stream": stream, "modelopt": resident}


def digests(source: Path, release: Path) -> dict[str, str]:
    """SHA-256 of each tensor of the modules that nvfp4_default quantizes."""
    config = json.loads((source / "config.json").read_bytes())
    (release / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(release)
    modules = inventory(config, where=source).quantized
    names = [f"{module}.{suffix}" for module in modules for suffix in SUFFIXES]

    def one(name: str) -> str:
        piece = checkpoint.piece(name)
        return digest_file(piece.path, offset=piece.offset, size=piece.tensor.size)

    return dict(zip(names, in_parallel(one, names), strict=True))


def floor(source: Path, out: Path, device: torch.device, args: Any) -> dict[str, Any]:
    """What `scion estimate` says, at rates measured now; without the artifact's closing hash."""
    checkpoint = Checkpoint.open(source)
    settings = Quantization(recipe=args.recipe)
    made = estimate(checkpoint, settings, [[args.tokens]] * args.samples, machine(device))
    shards = [source / shard for shard in checkpoint.headers]
    rates = measured(device.type, disk_rates(out, shards))
    seconds, bound = made.floor(rates)
    hashing = next(term.seconds for term in made.terms(rates) if term.name == "hashing")
    return {
        "floor_seconds": round(seconds - hashing, 3),
        "bound": bound,
        "estimated_rss_mb": round(total(made.host) / 1e6, 1),
        "estimated_gpu_mb": round(total(made.device) / 1e6, 1) if made.device else None,
    }


def reset_peak(device: torch.device) -> None:
    """Set the peaks of memory back to what is held now."""
    # https://www.kernel.org/doc/html/latest/filesystems/proc.html: 5 sets VmHWM back.
    Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def resident_mb(which: str) -> float:
    """`VmHWM`, the peak of resident memory, or `VmRSS`, what is held now, in 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(int(next(x.split()[1] for x in lines if x.startswith(which))) * 1024 / 1e6, 1)


def main() -> int:
    """Parse arguments, quantize, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("how", choices=WAYS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--warm-up", type=Path, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", default="nvfp4_default")
    parser.add_argument("--kill-after", type=int)
    args = parser.parse_args()
    device, way = torch.device(args.device), WAYS[args.how]
    args.out.mkdir(parents=True, exist_ok=True)
    warm = argparse.Namespace(**{**vars(args), "kill_after": None})
    way(args.warm_up, args.out / "warm", samples(1, args.tokens), device, warm)
    expected = floor(args.source, args.out, device, args) if args.how == "stream" else {}
    reset_peak(device)
    before, begin = resident_mb("VmRSS"), time.perf_counter()
    release = way(args.source, args.out, samples(args.samples, args.tokens), device, args)
    seconds = time.perf_counter() - begin
    on_gpu = device.type == "cuda"
    told = {
        "seconds": round(seconds, 3),
        "peak_rss_mb": resident_mb("VmHWM"),
        "rss_before_mb": before,
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "modelopt": modelopt.__version__,
        **expected,
    }
    write_json(args.out / "digests.json", digests(args.source, release))
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
