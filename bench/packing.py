"""How much faster than ModelOpt is `scion.formats.packing`, at the same bytes?

Packing is the one step of a quantization that touches every weight and learns nothing, so it should
cost about what reading and writing the weights cost. The yardstick is what would be called else,
`NVFP4QTensor.quantize`; beside it the same in parts of 64 rows, which takes less memory, and the
same through `torch.compile`, which many would try first.

One matrix of a 27B model's MLP, bfloat16, generated, in memory. Each way runs in a process of its
own, in turns; the processes are given the same global scale, and the bench stops if their bytes
differ. Timed is the call alone: interpreter and imports are left out, for ModelOpt's take longer
than the work. The first call of a process is told apart. The caches of Numba and torch are empty at
the start, so the first process compiles; later ones load what it kept. Memory is the peak of the
process, and what the later calls add to what was there, their result included. Progress goes to
stderr; a table and one line of JSON to stdout. Nothing stays on disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from support.measure import machine, unwind_when_ended

PACK_ONLY = Path(__file__).parent / "support" / "pack_only.py"
# By the way to pack: timed calls in each process.
CALLS = {"modelopt": 1, "scion": 9, "modelopt-by-rows": 1, "modelopt-compiled": 1}
MIN_SPEEDUP = 5
"""Of ours beside ModelOpt's."""


def measure(shape: tuple[int, int], *, repeat: int) -> dict[str, list[dict[str, Any]]]:
    """What the processes of each way tell, in the order in which they ran."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in CALLS}
    with tempfile.TemporaryDirectory(prefix="scion-bench-") as folder:
        kept = {
            "NUMBA_CACHE_DIR": f"{folder}/numba",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        }
        for turn in range(repeat):
            # Every other turn goes backwards, so that none always pays for the one before.
            for way in list(CALLS)[:: -1 if turn % 2 else 1]:
                runs[way].append(run(way, shape, os.environ | kept))
                seconds = median(runs[way][-1]["seconds"])
                print(f"  run {turn + 1}: {way} {seconds:.3f} s", file=sys.stderr)
    return runs


def run(way: str, shape: tuple[int, int], environment: Mapping[str, str]) -> dict[str, Any]:
    """Pack in a process of its own."""
    arguments = [way, *map(str, shape), str(CALLS[way])]
    command = [sys.executable, str(PACK_ONLY), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summed_up(size: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all timed calls of one way, and its highest peak."""
    seconds = [second for run in runs for second in run["seconds"]]
    middle = median(seconds)
    return {
        "seconds": round(middle, 4),
        "runs": [round(second, 4) for second in seconds],
        "mb_per_second": round(size / 1e6 / middle, 1),
        # The first of a process less one that is not.
        "compile_seconds": [round(max(0.0, run["first"] - middle), 2) for run in runs],
        "peak_rss_mb": round(max(run["peak_rss_mb"] for run in runs), 1),
        "extra_mb": round(max(run["extra_mb"] for run in runs), 1),
    }


def report(size: int, runs_by_way: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print the table; the figures of the line of JSON.

    Raises:
        SystemExit: Not all bytes are the same.
    """
    digests = {
        way: {digest for run in runs for digest in run["sha256"]}
        for way, runs in runs_by_way.items()
    }
    if len(set[str]().union(*digests.values())) > 1:
        raise SystemExit(f"the bytes differ: {digests}")
    results = {way: summed_up(size, runs) for way, runs in runs_by_way.items()}
    print(f"{size / 1e6:.0f} MB                MB/s  beside modelopt  compile s  peak RSS   extra")
    for way, result in results.items():
        ratio = results["modelopt"]["seconds"] / result["seconds"]
        result["beside_modelopt"] = round(ratio, 2)
        print(
            f"{way:18} {result['mb_per_second']:8.0f} {ratio:16.2f} "
            f"{result['compile_seconds'][0]:10.1f} {result['peak_rss_mb']:6.0f} MB "
            f"{result['extra_mb']:4.0f} MB"
        )
    speedup = results["scion"]["beside_modelopt"]
    met = speedup >= MIN_SPEEDUP
    return {
        "bytes": size,
        "same_bytes": True,
        "speedup": speedup,
        "target": {"speedup": {"at_least": MIN_SPEEDUP, "found": speedup, "met": met}},
        "results": results,
    }


def main() -> int:
    """Parse arguments, measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5120, help="of the matrix (5120)")
    parser.add_argument("--columns", type=int, default=17408, help="of the matrix (17408)")
    parser.add_argument("--repeat", type=int, default=3, help="processes of each way (3)")
    args = parser.parse_args()
    unwind_when_ended()
    where = machine(Path(tempfile.gettempdir()))
    runs = measure((args.rows, args.columns), repeat=args.repeat)
    figures = report(2 * args.rows * args.columns, runs)
    shape = {"rows": args.rows, "columns": args.columns}
    print(json.dumps({"benchmark": "packing", "machine": where, **shape, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
