"""Quantize a checkpoint once, with the stage or with ModelOpt's plain path; tell what it took.

    python bench/support/quantize_once.py stream SOURCE OUT --warm-up TINY --samples 4 --tokens 128

SOURCE is an artifact, as `bench/streaming.py` makes it. Before the time is taken the same is done
to TINY, a checkpoint of few layers of the same width, so that kernels are compiled; the peak of
memory is set back after it. Prints one line of JSON; the SHA-256 of each tensor of quantized
modules goes to OUT/digests.json.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import modelopt
import modelopt.torch.quantization as mtq
import torch
from measure import resident_mb
from modelopt.torch.export import export_hf_checkpoint
from transformers import AutoModelForCausalLM

from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import Checkpoint
from scion.common.devices import one_thread
from scion.common.digest import digest_file, in_parallel
from scion.common.files import write_json
from scion.formats.modelopt import SUFFIXES
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.samples import read_samples
from scion.quantization.config import Calibration, CalibrationSet, Quantization
from scion.quantization.estimate.estimate import estimate
from scion.quantization.estimate.memory import total
from scion.quantization.estimate.rates import disk_rates, measured
from scion.quantization.estimate.report import record
from scion.quantization.estimate.watch import machine
from scion.quantization.layerwise.torch_kernels import on_cpu
from scion.quantization.recipes import recipe
from scion.stages.quantize_nvfp4 import quantize_nvfp4

_ENVIRONMENT = "sha256:benchmark"
_WORDS = (
    "the of and to in is that it for was on are as with they be at one have this from or had by"
)
_POLL_SECONDS = 0.02


def settings(args: Any, folder: Path, samples: int) -> Quantization:
    """What a configuration would say; the samples are written to a file in `folder`."""
    file = folder / "calibration.jsonl"
    draw = random.Random(0)
    # A word is a token at least, so each sample has more than is asked for and is cut.
    rows = (" ".join(draw.choices(_WORDS.split(), k=args.tokens + 1)) for _ in range(samples))
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    calibration_set = CalibrationSet(dataset=str(file), samples=samples, max_tokens=args.tokens)
    calibration = Calibration(sets=(calibration_set,), pack_tokens=args.pack_tokens)
    return Quantization(recipe=args.recipe, device=args.device, calibration=calibration)


def stream(source: Path, out: Path, chosen: Quantization) -> Path:
    """By the stage: from opening the source to the finished, hashed artifact."""
    text, output = Artifact.open(source), out / "artifact"
    quantize_nvfp4(text=text, output=Output.at(output), settings=chosen, environment=_ENVIRONMENT)
    return output


def resident(source: Path, out: Path, chosen: Quantization) -> Path:
    """By ModelOpt's plain path: the model loaded whole, quantized, exported; nothing is hashed."""
    device = torch.device(chosen.device)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, device_map=device
    ).eval()
    samples = read_samples(Checkpoint.open(source), chosen.calibration)

    def forward(model: Any) -> None:
        for sample in samples:
            model(input_ids=sample.ids.to(device), use_cache=False)

    kernels = on_cpu() if device.type == "cpu" else contextlib.nullcontext()
    with torch.no_grad(), kernels, one_thread(device):
        mtq.quantize(model, recipe(chosen.recipe).config, forward)
        model.config.architectures = [type(model).__name__]
        export_hf_checkpoint(model, export_dir=out / "artifact")
    return out / "artifact"


WAYS: dict[str, Callable[[Path, Path, Quantization], Path]] = {
    "stream": stream,
    "modelopt": resident,
}


def kill_after(journal: Path, layers: int) -> None:
    """End this process, as a machine that is switched off does, once so many layers are done."""

    def finished() -> int:
        lines = journal.read_text().splitlines() if journal.is_file() else []
        return sum(".layers." in line.partition(",")[0] for line in lines)

    while finished() < layers:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def digests(source: Path, release: Path) -> dict[str, str]:
    """SHA-256 of each tensor of the modules that nvfp4_default quantizes."""
    config = json.loads((source / "config.json").read_bytes())
    (release / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(release)
    modules = inventory(config, where=source).quantized
    names = [f"{module}.{suffix}" for module in modules for suffix in SUFFIXES]

    def tensor_digest(name: str) -> str:
        piece = checkpoint.piece(name)
        return digest_file(piece.path, offset=piece.offset, size=piece.tensor.size)

    return dict(zip(names, in_parallel(tensor_digest, names), strict=True))


def expectation(source: Path, out: Path, chosen: Quantization) -> dict[str, Any]:
    """What `scion estimate` says, at rates measured now."""
    checkpoint = Checkpoint.open(source)
    batches = pack(read_samples(checkpoint, chosen.calibration), chosen.calibration.pack_tokens)
    lengths = [batch.lengths for batch in batches]
    forecast = estimate(checkpoint, chosen, lengths, machine(torch.device(chosen.device)))
    shards = [source / shard for shard in checkpoint.headers]
    rates = measured(chosen.device, disk_rates(out, shards))
    seconds, bound = forecast.floor(rates)
    return {
        "floor_seconds": round(seconds, 3),
        "bound": bound,
        "estimated_rss_mb": round(total(forecast.host) / 1e6, 1),
        "estimated_gpu_mb": round(total(forecast.device) / 1e6, 1) if forecast.device else None,
        "estimate": record(forecast, rates),
    }


@contextlib.contextmanager
def peak_of_own_memory() -> Generator[dict[str, float]]:
    """Watch the process's memory but for pages of files, which the kernel can take back.

    Yields:
        `anonymous_mb`, the highest `RssAnon` that was seen, in 10^6 bytes.
    """
    peak, ended = {"anonymous_mb": 0.0}, threading.Event()

    def look() -> None:
        while not ended.wait(_POLL_SECONDS):
            peak["anonymous_mb"] = max(peak["anonymous_mb"], resident_mb("RssAnon"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def reset_peak(device: torch.device) -> None:
    """Set the peaks of memory back to what is held now."""
    # https://www.kernel.org/doc/html/latest/filesystems/proc.html: 5 sets VmHWM back.
    Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def main() -> int:
    """Parse arguments, quantize, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("how", choices=WAYS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--warm-up", type=Path, required=True, help="a checkpoint of few layers")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="of each sample")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--recipe", default="nvfp4_default")
    parser.add_argument("--pack-tokens", type=int, help="of a pass that takes several samples")
    parser.add_argument("--kill-after", type=int, help="layers")
    parser.add_argument(
        "--gpu-gigabytes", type=float, help="what torch may have of the GPU's memory (10^9 bytes)"
    )
    args = parser.parse_args()
    device, way = torch.device(args.device), WAYS[args.how]
    (args.out / "warm").mkdir(parents=True, exist_ok=True)
    if args.gpu_gigabytes is not None:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(args.gpu_gigabytes * 1e9 / whole)
    way(args.warm_up, args.out / "warm", settings(args, args.out / "warm", 1))
    chosen = settings(args, args.out, args.samples)
    result = expectation(args.source, args.out, chosen) if args.how == "stream" else {}
    if args.kill_after is not None:
        journal = args.out / ".artifact.layers/layers.jsonl"
        watching = threading.Thread(target=kill_after, args=(journal, args.kill_after), daemon=True)
        watching.start()
    reset_peak(device)
    before, begin = resident_mb("VmRSS"), time.perf_counter()
    with peak_of_own_memory() as own:
        release = way(args.source, args.out, chosen)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    on_gpu = device.type == "cuda"
    result |= {
        "seconds": round(seconds, 3),
        "peak_rss_mb": resident_mb("VmHWM"),
        "peak_anonymous_mb": own["anonymous_mb"],
        "rss_before_mb": before,
        "peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if on_gpu else None,
        "reserved_gpu_mb": round(torch.cuda.max_memory_reserved() / 1e6, 1) if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "modelopt": modelopt.__version__,
    }
    write_json(args.out / "digests.json", digests(args.source, release))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
