"""How much slower than reading is `scion lint --deep`?

The deep rules look at every number of a checkpoint, which nobody does often if it takes much longer
than reading the files. So the yardstick is `cat` to /dev/null, and of files that the disk must give
the scan shall reach half its speed. Beside it, `cat` of the shards on as many processes as cores,
which is nearer to how the scan reads.

The checkpoint is generated: MLP and attention in NVFP4 with its scales, the delta nets, embeddings,
vision tower and MTP head in bf16, random bytes throughout. Scan and peers are processes of their
own, timed over their whole life (the scan starts an interpreter and imports numpy), in turns: once
with the files in the page cache, once with none of them there. `posix_fadvise` drops them before
each cold run, and `mincore` counts what is left; a virtual machine's host may still have them.
Progress goes to stderr; a table and one line of JSON to stdout. Nothing stays on disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.measure import (
    Candidate,
    Result,
    compare,
    cores,
    drop_from_cache,
    machine,
    unwind_when_ended,
)

SUPPORT = Path(__file__).parent / "support"
MIN_SPEED = 0.5
"""Of the scan beside `cat`, cold."""


def candidates(folder: Path, paths: Sequence[Path]) -> dict[str, list[str]]:
    """The commands to compare."""
    script = f'printf "%s\\0" "$@" | xargs -0 -n 1 -P {cores()} cat'
    files = [str(path) for path in paths]
    return {
        "cat": ["cat", *files],
        "cat on all cores": ["sh", "-ec", script, "sh", *files],
        "scan": [sys.executable, str(SUPPORT / "scan_only.py"), str(folder)],
    }


def measure(folder: Path, paths: Sequence[Path], *, repeat: int) -> dict[str, dict[str, Result]]:
    """Results by state of the cache, then by command."""
    prepare: dict[str, Callable[[], None]] = {
        "warm": lambda: None,
        "cold": lambda: drop_from_cache(paths),
    }
    results: dict[str, dict[str, Result]] = {}
    for cache, ready in prepare.items():
        print(f" {cache}", file=sys.stderr)
        commands = candidates(folder, paths)
        measured = {name: Candidate(command, ready) for name, command in commands.items()}
        results[cache] = compare(measured, repeat=repeat)
    return results


def report(size: int, results: dict[str, dict[str, Result]]) -> dict[str, Any]:
    """Print the table; the figures of the line of JSON."""
    print(f"{size / 1e9:.2f} GB             GB/s   beside cat   peak RSS")
    ratios: dict[str, dict[str, float]] = {}
    for cache, group in results.items():
        ratios[cache] = {}
        for name, result in group.items():
            ratio = group["cat"].seconds / result.seconds
            ratios[cache][name] = round(ratio, 3)
            speed = f"{size / 1e9 / result.seconds:6.2f} {ratio:12.2f}"
            print(f"{cache} {name:16} {speed} {result.peak_rss_mb:7.0f} MB")
    scan_ratio = ratios["cold"]["scan"]
    return {
        "bytes": size,
        "ratio": scan_ratio,
        "target": {"at_least": MIN_SPEED, "found": scan_ratio, "met": scan_ratio >= MIN_SPEED},
        "speed_beside_cat": ratios,
        "peak_rss_mb": max(group["scan"].peak_rss_mb for group in results.values()),
        "results": {
            cache: {name: asdict(result) for name, result in group.items()}
            for cache, group in results.items()
        },
    }


def main() -> int:
    """Parse arguments, measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4, help="size of the checkpoint (4)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each command (3)")
    parser.add_argument(
        "--folder", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args()
    unwind_when_ended()
    where = machine(args.folder or Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
        folder = Path(name) / "checkpoint"
        # In a process of its own: what a parent has in memory counts in the peak of its children.
        generate = [sys.executable, str(SUPPORT / "nvfp4_checkpoint.py"), str(folder)]
        subprocess.run([*generate, "--gigabytes", str(args.gigabytes)], check=True)
        paths = sorted(folder.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in paths)
        results = measure(folder, paths, repeat=args.repeat)
    figures = report(size, results)
    print(json.dumps({"benchmark": "lint_deep", "machine": where, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
