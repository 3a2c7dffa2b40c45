r"""What does quantizing layer by layer take, and does its memory grow with the number of layers?

A release of 27 billion parameters shall be made where the model does not fit. So two layers are
held at a time, however many there are; and since reading, calculating and writing happen at once,
that should cost no time. Measured is the stage `quantize_nvfp4`, from opening the source to the
finished, hashed artifact, on random checkpoints of one width and several depths, beside ModelOpt's
plain path in the same run, which hashes nothing: `from_pretrained`, `mtq.quantize`,
`export_hf_checkpoint`. Each is a process of its own, in turns; timed is the work, without imports
and without the compiling of kernels, for which a checkpoint of four layers is quantized first. The
bench ends with an error if the bytes of quantized modules differ.

    python bench/streaming.py                                   small, on a CPU: some minutes
    python bench/streaming.py --kill-after 5                    also: killed there, and run again
    python bench/streaming.py --shape qwen3.6-27b --device cuda --samples 20 --tokens 2048 \
        --repeat 1 --kill-after 5 --also local_hessian --folder /dev/shm/bench --results bench-out

    python bench/streaming.py --shape qwen3.6-35b-a3b --layers 40 --pack-tokens 8192 …  a mixture

Peak RSS counts pages of mapped files, which the kernel takes back when it needs them; `own` is what
the process holds beside them. Calibration on a CPU runs on one thread on both sides, or sums would
differ. The floor is `scion estimate`'s, at rates measured in the same process. Progress goes to
stderr, a table and one line of JSON to stdout. Nothing stays on disk.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from support.measure import machine, unwind_when_ended

_BENCH = Path(__file__).parent
sys.path.insert(0, str(_BENCH.parent / "tools"))
from random_checkpoint import SHAPES, generate, shaped_config  # noqa: E402
from scion.architectures.text_only import text_config  # noqa: E402
from scion.artifacts.artifact import Draft  # noqa: E402
from scion.artifacts.making import Output, remake  # noqa: E402
from scion.checkpoint.shards import CONFIG, Checkpoint, index_headers  # noqa: E402
from scion.common.files import write_json  # noqa: E402

ONCE = _BENCH / "support" / "quantize_once.py"
WAYS = ("stream", "modelopt")
RESUMED, CAPPED, PACKED = "resumed", "capped", "packed"
MAX_GROWTH = 1.05
"""Of the peak of memory, from the fewest layers to the most."""
MAX_RATIO = 1.15
"""Of the time beside ModelOpt's."""
SEARCHED, MAX_SEARCHED = "local_hessian", 2.0
"""Of the time that this recipe takes on a GPU, beside that of nvfp4_default."""
MAX_GPU_MB, MAX_OWN_MB = 8000.0, 12000.0
_WARM_LAYERS, _WARM_VOCABULARY, _WARM_EXPERTS = 4, 2048, 16
# 3.4 million parameters a layer, in the proportions of the family.
SMALL: dict[str, Any] = {
    "text_config": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_attention_heads": 8,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
    },
    "vision_config": {},
}


Runs = dict[str, list[dict[str, Any]]]


def checkpoint(folder: Path, shape: dict[str, Any], layers: int, *, device: str) -> Path:
    """A random checkpoint of text alone, as the artifact that `quantize_nvfp4` takes."""
    print(f"checkpoint of {layers} layers", file=sys.stderr)
    generate(folder, shaped_config(shape, layers=layers), device=device)
    source = folder / "source"
    whole = Checkpoint.open(source)
    vision = {s for name, s in whole.shard_of.items() if name.startswith("model.visual.")}
    for shard in vision:
        (source / shard).unlink()
    index_headers(source, sorted(whole.headers.keys() - vision))
    write_json(source / CONFIG, text_config(whole.config, text_only=True))

    def move(draft: Draft) -> None:
        for path in source.iterdir():
            path.rename(draft.folder / path.name)

    remake(
        Output.at(folder / "text"),
        stage="extract_text",
        inputs={},
        settings={},
        environment="sha256:benchmark",
        build=move,
    )
    return folder / "text"


def run(way: str, source: Path, out: Path, warm: Path, args: Any, *extra: str) -> dict[str, Any]:
    """Quantize in a process of its own; empty if it was killed."""
    command = [
        *(sys.executable, str(ONCE), way, str(source), str(out), "--warm-up", str(warm)),
        *("--samples", str(args.samples), "--tokens", str(args.tokens), "--device", args.device),
        *extra,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL and "--kill-after" in extra:
        return {}
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited {done.returncode}:\n{done.stderr[-3000:]}")
    for line in done.stderr.splitlines():
        if line.startswith("out of GPU memory"):
            print(f"  {line}", file=sys.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    # All of it, so that nothing is lost if the bench is stopped.
    print(f"  {' '.join((way, *extra))}: {json.dumps(result)}", file=sys.stderr)
    return {**result, "digests": json.loads((out / "digests.json").read_bytes())}


def measure(layers: int, warm: Path, folder: Path, args: Any) -> Runs:
    """All runs over one checkpoint, by way, in the order in which they ran."""
    source = checkpoint(folder / "model", args.shape_config, layers, device=args.device)
    runs: Runs = {way: [] for way in WAYS}

    def once(way: str, *extra: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.results) as name:
            return run(way, source, Path(name), warm, args, *extra)

    try:
        for turn in range(args.repeat):
            # Every other turn goes backwards, so that none always pays for the one before.
            for way in WAYS[:: -1 if turn % 2 else 1]:
                runs[way].append(once(way))
        if args.gpu_gigabytes is not None and layers == min(args.depths):
            runs[CAPPED] = [once("stream", "--gpu-gigabytes", str(args.gpu_gigabytes))]
        if args.kill_after is not None and layers == min(args.depths):
            with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.results) as name:
                extra = ("--kill-after", str(args.kill_after))
                if run("stream", source, Path(name), warm, args, *extra):
                    raise SystemExit(f"{layers} layers were finished before {extra[1]} were")
                shutil.rmtree(Path(name) / "warm")
                runs[RESUMED] = [run("stream", source, Path(name), warm, args)]
        if layers == max(args.depths):
            for name in args.also:
                runs[name] = [once("stream", "--recipe", name) for _ in range(args.repeat)]
            if args.pack_tokens is not None:
                extra = ("--pack-tokens", str(args.pack_tokens))
                runs[PACKED] = [once("stream", *extra) for _ in range(args.repeat)]
    finally:
        shutil.rmtree(folder / "model")
    return runs


def differing(runs: Runs) -> list[str]:
    """The tensors that are not the same in all runs of one recipe."""
    tables = [run["digests"] for way in (*WAYS, RESUMED, CAPPED) for run in runs.get(way, [])]
    return [name for name in tables[0] if len({table.get(name) for table in tables}) > 1]


def summed_up(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians of times, and the highest peaks, of the runs of one way."""

    def highest(key: str) -> float | None:
        return max(run[key] or 0 for run in runs) or None

    result: dict[str, Any] = {
        "seconds": round(median(run["seconds"] for run in runs), 3),
        "runs": [run["seconds"] for run in runs],
        # Beside what libraries and the quantized checkpoint of four layers have left.
        "extra_rss_mb": round(max(run["peak_rss_mb"] - run["rss_before_mb"] for run in runs), 1),
    }
    for key in ("peak_rss_mb", "peak_anonymous_mb", "peak_gpu_mb", "reserved_gpu_mb"):
        result[key] = highest(key)
    if "floor_seconds" in runs[0]:
        result["floor_seconds"] = round(median(run["floor_seconds"] for run in runs), 3)
        result["over_floor"] = round(result["seconds"] / result["floor_seconds"], 2)
        result |= {key: runs[-1][key] for key in ("bound", "estimated_rss_mb", "estimated_gpu_mb")}
        result["estimated_terms"] = runs[-1]["estimate"]["time"]["terms"]
    return result


def peak(result: dict[str, Any]) -> float:
    """The memory that counts: a GPU's, or that of the process."""
    return result["peak_gpu_mb"] or result["peak_rss_mb"]


def report(runs_by_depth: dict[int, Runs]) -> dict[str, Any]:
    """Print the table; the figures of the line of JSON."""
    results = {
        n: {way: summed_up(runs) for way, runs in by.items()} for n, by in runs_by_depth.items()
    }
    print(
        "layers  way              seconds   floor   peak RSS     own    extra  peak GPU  reserved"
    )
    for layers, by_way in results.items():
        for way, result in by_way.items():
            gpu = (f"{result[key] or 0:7.0f} MB" for key in ("peak_gpu_mb", "reserved_gpu_mb"))
            print(
                f"{layers:6}  {way:15}{result['seconds']:9.2f}{result.get('floor_seconds', 0):8.2f}"
                f"{result['peak_rss_mb']:8.0f} MB{result['peak_anonymous_mb']:8.0f}"
                f"{result['extra_rss_mb']:9.0f}{''.join(gpu)}"
            )
    few, many = results[min(results)], results[max(results)]
    stream, modelopt = many["stream"], many["modelopt"]
    growth = {way: round(peak(many[way]) / peak(few[way]), 3) for way in WAYS}
    targets = {
        "growth": target(MAX_GROWTH, growth["stream"]),
        "ratio": target(MAX_RATIO, round(stream["seconds"] / modelopt["seconds"], 3)),
        "own_mb": target(MAX_OWN_MB, stream["peak_anonymous_mb"]),
    }
    if stream["peak_gpu_mb"]:
        targets["gpu_mb"] = target(MAX_GPU_MB, stream["peak_gpu_mb"])
        if SEARCHED in many:
            ratio = round(many[SEARCHED]["seconds"] / stream["seconds"], 3)
            targets[f"{SEARCHED} beside nvfp4_default"] = target(MAX_SEARCHED, ratio)
    first = next(iter(runs_by_depth.values()))["stream"][0]
    return {
        **{key: first[key] for key in ("device", "torch", "modelopt")},
        "differing": {layers: differing(runs) for layers, runs in runs_by_depth.items()},
        "compared": {
            layers: len(runs["stream"][0]["digests"]) for layers, runs in runs_by_depth.items()
        },
        "growth": growth,
        "memory_beside_modelopt": round(peak(stream) / peak(modelopt), 3),
        "targets": targets,
        "results": results,
    }


def target(most: float, value: float) -> dict[str, Any]:
    """A figure beside the most that it may be."""
    return {"at_most": most, "found": value, "met": value <= most}


def main() -> int:
    """Parse arguments, measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", help="a file of tools/shapes (default: a small one)")
    parser.add_argument("--layers", default="16,32,64", help="depths (16,32,64)")
    parser.add_argument("--samples", type=int, default=4, help="of calibration (4)")
    parser.add_argument("--tokens", type=int, default=128, help="of each sample (128)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (3)")
    parser.add_argument(
        "--kill-after", type=int, metavar="N", help="also kill and resume, at the least depth"
    )
    parser.add_argument(
        "--also",
        type=lambda text: text.split(","),
        default=[],
        metavar="RECIPES",
        help="also stream these, at the greatest depth",
    )
    parser.add_argument(
        "--gpu-gigabytes",
        type=float,
        metavar="N",
        help="also stream at the least depth where torch may have no more of the GPU than this",
    )
    parser.add_argument(
        "--pack-tokens",
        type=int,
        metavar="N",
        help="also stream, at the greatest depth, with up to so many tokens of several samples in "
        "a pass; products of other sizes round otherwise, so its bytes are not compared",
    )
    parser.add_argument("--folder", type=Path, help="where checkpoints go (default: temporary)")
    parser.add_argument("--results", type=Path, help="where results go (default: temporary)")
    args = parser.parse_args()
    unwind_when_ended()
    shape = SHAPES / f"{args.shape}.json"
    args.depths = [int(text) for text in args.layers.split(",")]
    args.shape_config = json.loads(shape.read_bytes()) if args.shape else SMALL
    for folder in (args.folder, args.results):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
        folder = Path(name)
        where = machine(folder)
        text = {**args.shape_config["text_config"], "vocab_size": _WARM_VOCABULARY}
        if "num_experts" in text:
            text["num_experts"] = min(text["num_experts"], _WARM_EXPERTS)
        small = {**args.shape_config, "text_config": text}
        warm = checkpoint(folder / "warm", small, _WARM_LAYERS, device=args.device)
        runs_by_depth = {layers: measure(layers, warm, folder, args) for layers in args.depths}
    request = {"samples": args.samples, "tokens": args.tokens, "shape": args.shape or "small"}
    figures = report(runs_by_depth)
    print(json.dumps({"benchmark": "streaming", "machine": where, **request, **figures}))
    return 1 if any(figures["differing"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
