"""Is a conversion without calibration bound by the disk?

Where activation scales are known (`quantization.input_scales`), a checkpoint becomes NVFP4 without
a forward pass. Then the weights are read once and a third of them is written, and the disk alone
should set the time. Measured is the stage `quantize_nvfp4`, its closing hash included, on a random
checkpoint of the width of Qwen3.6-27B, of which no page is in memory; beside what the disk takes:
`cat` of the source's shards, cold, and `cp` of the result's shards, which are in memory, until the
disk has them. The two could overlap, so their sum is no bound; on most disks it is near one.

Imports and the compiling of kernels, some seconds, are not timed: a release of 27B does not notice
them, a bench of some gigabytes would. Runs take turns with their peers. Progress goes to stderr; a
table and one line of JSON to stdout. Nothing stays on disk.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from streaming import SHAPES, SMALL, checkpoint
from support.measure import drop_from_cache, machine, unwind_when_ended

from scion.architectures.inventory import inventory
from scion.checkpoint.shards import CONFIG, Checkpoint, index_headers

ONCE = Path(__file__).parent / "support" / "convert_once.py"
SHAPE = "qwen3.6-27b"
MAX_RATIO = 1.25
"""Of the time beside that of `cat` and `cp`, one after the other."""
# The embeddings stay as they are, and one layer has as many numbers as 75,000 tokens have.
_VOCABULARY = 2048
_WARM_LAYERS = 4


def given_scales(source: Path, folder: Path) -> Path:
    """A checkpoint of activation scales alone, as `input_scales` reads them."""
    folder.mkdir()
    config = Checkpoint.open(source).config
    modules = inventory(config, where=source).quantized
    scales = {f"{module}.input_scale": torch.tensor(0.01) for module in modules}
    shutil.copy(source / CONFIG, folder / CONFIG)
    save_file(scales, folder / "model-00001-of-00001.safetensors")
    index_headers(folder, ["model-00001-of-00001.safetensors"])
    return folder


def timed(*command: str) -> float:
    """Seconds of a command."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def once(source: Path, warm: Path, scales: Path, folder: Path) -> dict[str, float]:
    """One turn: the stage, `cat` of its source, `cp` of its result."""
    shards = sorted(source.glob("*.safetensors"))
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=folder) as name:
        out = Path(name)
        command = [sys.executable, str(ONCE), str(source), str(out), str(scales)]
        done = subprocess.run(
            [*command, "--warm-up", str(warm)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(
                f"{' '.join(command)} exited {done.returncode}:\n{done.stderr[-3000:]}"
            )
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        written = sorted((out / "artifact").glob("*.safetensors"))
        # Read once, so that the copy below has them in memory.
        timed("cat", *map(str, written))
        drop_from_cache(shards)
        os.sync()
        result["cat"] = timed("cat", *map(str, shards))
        copies = out / "copies"
        copies.mkdir()
        result["cp"] = timed(
            "sh", "-ec", 'cp "$@"; sync -f "$1"', "sh", *map(str, written), str(copies)
        )
        result["read"] = sum(path.stat().st_size for path in shards)
        result["written"] = sum(path.stat().st_size for path in written)
    print(f"  {json.dumps(result)}", file=sys.stderr)
    return result


def report(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Print the table; the figures of the line of JSON."""
    seconds = {key: round(median(run[key] for run in runs), 2) for key in ("seconds", "cat", "cp")}
    ratio = round(median(run["seconds"] / (run["cat"] + run["cp"]) for run in runs), 3)
    read, written = runs[0]["read"], runs[0]["written"]
    print(f"scion         {seconds['seconds']:7.2f} s")
    print(f"cat, {read / 1e9:.2f} GB  {seconds['cat']:7.2f} s")
    print(f"cp, {written / 1e9:.2f} GB   {seconds['cp']:7.2f} s")
    print(f"beside both   {ratio:7.2f}")
    return {
        "bytes": {"read": read, "written": written},
        "seconds": seconds,
        "read_gb_per_second": round(read / 1e9 / seconds["seconds"], 3),
        "target": {"at_most": MAX_RATIO, "found": ratio, "met": ratio <= MAX_RATIO},
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "runs": runs,
    }


def main() -> int:
    """Parse arguments, measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6, help="of 0.77 GB each (6)")
    parser.add_argument("--repeat", type=int, default=3, help="turns (3)")
    parser.add_argument(
        "--folder", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args()
    unwind_when_ended()
    shape = json.loads((SHAPES / f"{SHAPE}.json").read_bytes())
    shape["text_config"]["vocab_size"] = _VOCABULARY
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
        folder = Path(name)
        where = machine(folder)
        warm = checkpoint(folder / "warm", SMALL, min(_WARM_LAYERS, args.layers), device="cpu")
        source = checkpoint(folder / "model", shape, args.layers, device="cpu")
        scales = given_scales(source, folder / "scales")
        runs = [once(source, warm, scales, folder) for _ in range(args.repeat)]
    print(json.dumps({"benchmark": "weights_only", "machine": where, **report(runs)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
