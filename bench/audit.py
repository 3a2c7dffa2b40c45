"""Is an audit bound by hashing and by the disk?

Whoever downloads a release hashes it at least, so the yardstick for tensors that stay is `openssl
dgst -sha256` over the files of release and source, on as many processes as cores: the audit hashes
the release twice, files and tensors, and compares each tensor with the source's. Quantized weights
are derived anew, which reads the source once and packs it: beside `cat` of the source's shards, of
which no page is in memory, or beside the packing of a matrix in memory where that is slower than
the disk; and beside ModelOpt's packing of the matrix.

Checkpoints are random, of the width of Qwen3.6-27B. Runs take turns with their peers. Progress goes
to stderr; a table and one line of JSON to stdout. Nothing stays on disk.

    .venv/bin/python bench/audit.py --folder results > audit.json
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from streaming import SHAPES, SMALL, checkpoint
from support.measure import Candidate, compare, cores, drop_from_cache, machine, unwind_when_ended
from weights_only import given_scales, timed

from scion.common.digest import digest_file

SUPPORT = Path(__file__).parent / "support"
SHAPE = "qwen3.6-27b"
MATRIX = (17408, 5120)
"""Of the MLP: what ModelOpt packs."""
MIN_HASHING, MIN_READING, MIN_PACKING, MAX_RSS_MB = 0.8, 0.5, 5.0, 1000
_WARM_LAYERS = 4


def quantized(source: Path, folder: Path) -> Path:
    """A checkpoint in NVFP4, with activation scales that are given."""
    folder.mkdir()
    scales = given_scales(source, folder / "scales")
    command = [
        *(sys.executable, str(SUPPORT / "convert_once.py"), str(source), str(folder), str(scales)),
        *("--warm-up", str(source)),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "artifact"


def unchanged(source: Path, folder: Path, repeat: int) -> dict[str, Any]:
    """A release of tensors that stay, beside openssl over the same files."""
    release = folder / "release"
    shutil.copytree(source.resolve(), release)
    files = sorted(path for path in release.iterdir() if path.is_file())
    sums = {path.name: {"size": path.stat().st_size, "sha256": digest_file(path)} for path in files}
    release.with_name("release.sums.json").write_text(json.dumps(sums))
    script = (
        f'find "$@" -type f -name "*.safetensors" -print0 | '
        f"xargs -0 -n 1 -P {cores()} openssl dgst -sha256"
    )
    ours = [sys.executable, str(SUPPORT / "audit_once.py"), "unchanged"]
    results = compare(
        {
            "openssl": Candidate(
                ["sh", "-ec", script, "sh", str(release), str(source.resolve())], lambda: None
            ),
            "audit": Candidate([*ours, str(release), str(source.resolve())], lambda: None),
        },
        repeat=repeat,
    )
    # The harness's peak has this process in it, as it was before it became the other.
    done = subprocess.run(
        [*ours, str(release), str(source.resolve())], capture_output=True, text=True, check=True
    )
    peak = json.loads(done.stdout.splitlines()[-1])["peak_rss_mb"]
    read = sum(path.stat().st_size for path in files)
    shutil.rmtree(release)
    return {
        "release_bytes": read,
        "seconds": {name: result.seconds for name, result in results.items()},
        "runs": {name: result.runs for name, result in results.items()},
        "beside_openssl": round(results["openssl"].seconds / results["audit"].seconds, 3),
        "peak_rss_mb": peak,
    }


def packing(way: str) -> float:
    """Seconds in which a matrix that is in memory is packed."""
    command = [sys.executable, str(SUPPORT / "pack_only.py"), way, *map(str, MATRIX), "1"]
    packed = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(packed.stdout.splitlines()[-1])["seconds"][0])


def derived(source: Path, warm: Path, folder: Path, repeat: int) -> dict[str, Any]:
    """A release of quantized weights, beside `cat` of its source and ModelOpt's packing."""
    release = quantized(source, folder / "large")
    small = quantized(warm, folder / "small")
    pairs = [str(each.resolve()) for each in (release, source, small, warm)]
    shards = sorted(source.resolve().glob("*.safetensors"))
    runs = list[dict[str, float]]()
    for _ in range(repeat):
        done = subprocess.run(
            [sys.executable, str(SUPPORT / "audit_once.py"), "derived", *pairs],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        run = json.loads(done.stdout.splitlines()[-1])
        drop_from_cache(shards)
        os.sync()
        run["cat"] = timed("cat", *map(str, shards))
        run |= {way: packing(way) for way in ("modelopt", "scion")}
        print(f"  {json.dumps(run)}", file=sys.stderr)
        runs.append(run)
    read = sum(path.stat().st_size for path in shards)
    matrix = 2 * MATRIX[0] * MATRIX[1]
    speed = median(run["bytes"] / run["seconds"] for run in runs)
    disk = median(read / run["cat"] for run in runs)
    packed = median(matrix / run["scion"] for run in runs)
    return {
        "source_bytes": read,
        "weight_bytes": int(runs[0]["bytes"]),
        "gb_per_second": round(speed / 1e9, 3),
        "beside_cat": round(speed / disk, 3),
        "beside_packing": round(speed / packed, 3),
        "beside_the_slower": round(speed / min(disk, packed), 3),
        "beside_modelopt": round(speed / median(matrix / run["modelopt"] for run in runs), 1),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "runs": runs,
    }


def main() -> int:
    """Parse arguments, measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=5, help="of 0.77 GB each in bf16 (5)")
    parser.add_argument("--repeat", type=int, default=3, help="turns (3)")
    parser.add_argument(
        "--folder", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args()
    unwind_when_ended()
    shape = json.loads((SHAPES / f"{SHAPE}.json").read_bytes())
    shape["text_config"]["vocab_size"] = 2048
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
        folder = Path(name)
        where = machine(folder)
        warm = checkpoint(folder / "warm", SMALL, _WARM_LAYERS, device="cpu")
        source = checkpoint(folder / "model", shape, args.layers, device="cpu")
        stay = unchanged(source, folder, args.repeat)
        made = derived(source, warm, folder, args.repeat)
    targets = {
        "beside openssl": (stay["beside_openssl"], MIN_HASHING, True),
        "derivation beside cat, or packing": (made["beside_the_slower"], MIN_READING, True),
        "derivation beside ModelOpt's packing": (made["beside_modelopt"], MIN_PACKING, True),
        "peak RSS, MB": (max(stay["peak_rss_mb"], made["peak_rss_mb"]), MAX_RSS_MB, False),
    }
    rows = dict[str, Any]()
    for title, (found, bound, least) in targets.items():
        met = found >= bound if least else found <= bound
        rows[title] = {"at_least" if least else "at_most": bound, "found": found, "met": met}
        print(f"{title:<38} {found:8.2f}  {'at least' if least else 'at most'} {bound:g}")
    report = {"unchanged": stay, "derived": made, "targets": rows}
    print(json.dumps({"benchmark": "audit", "machine": where, **report}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
