"""What does the surgery cost beyond moving and hashing the bytes?

Repairing keys, extracting the language model and grafting a head move bytes and prove that they
arrived; nobody computes with them. So the yardstick is what a careful person would type: `cp -r`
and then `sha256sum`, on as many processes as there are cores. A stage that costs much more wastes
an hour on a large checkpoint, and one whose memory grows with the checkpoint can't run on a small
machine. Both are found here, on generated checkpoints of two sizes.

Each stage runs as its rule runs it, a process of its own that starts an interpreter, hashes every
file and also every tensor, and writes manifest and tensor table. Peers run in the same minute, in
turns. Sources are in the page cache (warm); nothing waits for the disk but what the kernel makes
writers wait for. Progress goes to stderr; the last line of stdout is one JSON object.

`sha256sum` of some distributions does not use the processor's SHA instructions and is four times
slower than it could be, so a stage is compared with `openssl dgst -sha256` too, where that is
installed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.measure import Candidate, Result, compare, cores, machine, unwind_when_ended

from scion.artifacts.artifact import Artifact
from scion.artifacts.store.store import Store

SUPPORT = Path(__file__).parent / "support"
# By the name of a ratio: how much a stage may cost beside its yardstick, and megabytes of memory.
MAX_RATIO = {
    "fix_keys / cp and sha256sum": 1.1,
    "fix_keys without hashing / cp": 1.1,
    "graft_mtp / cp and sha256sum": 1.5,
}
MAX_RSS_MB = 400
GRAFT_OPTIONS = {"text-only": "true"}
HASHERS = {"sha256sum": "sha256sum", "openssl": "openssl dgst -sha256"}


def stage(name: str, output: Path, **options: Path | str) -> list[str]:
    """The command line that the rule of a stage runs."""
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return [
        *(sys.executable, "-m", f"scion.stages.{name}", *given),
        *("--output", f"{output}.json", "--store", str(output.parent / ".store")),
        *("--environment", "sha256:benchmark"),
    ]


def pointer(path: Path) -> Path:
    """The pointer of an artifact that is shown at a path."""
    return path.with_name(f"{path.name}.json")


def copy_and_hash(files: Iterable[Path], target: Path, hasher: str) -> list[str]:
    """Copy files into `target`, then hash the copies, one process a core."""
    script = (
        f'mkdir "$0" && cp -r "$@" "$0" && '
        f'find "$0" -type f -print0 | xargs -0 -n 1 -P {cores()} {HASHERS[hasher]}'
    )
    return ["sh", "-ec", script, str(target), *map(str, files)]


def peers(files: Sequence[Path], target: Path) -> dict[str, Candidate]:
    """The yardsticks of a stage that writes what `files` hold."""
    return {
        f"cp and {name}": fresh(copy_and_hash(files, target, name), target)
        for name, command in HASHERS.items()
        if shutil.which(command.split()[0])
    }


def fresh(command: Sequence[str], target: Path) -> Candidate:
    """A command that finds nothing at `target`, nor in the store what it is to make there."""
    return Candidate(command, lambda: forget(target))


def forget(target: Path) -> None:
    """Remove what was made, from the store too, so that it is made again."""
    named = pointer(target)
    if named.is_file():
        store = Store.open([str(target.parent / ".store")])
        artifact = Artifact.open(target)
        store.record(artifact.recipe).unlink(missing_ok=True)
        store.known.remove(store.place(artifact.content))
        named.unlink()
    if target.is_symlink():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)


def measure(folder: Path, *, gigabytes: float, repeat: int) -> dict[str, Any]:
    """Generate a checkpoint and measure the three stages on it."""
    print(f"checkpoint of {gigabytes:g} GB", file=sys.stderr)
    generate = [sys.executable, str(SUPPORT / "checkpoints.py"), str(folder)]
    call([*generate, "--gigabytes", str(gigabytes)])
    for name in ("source", "donor"):
        call(stage(f"fetch_{name}", folder / f"fetch_{name}", location=folder / name))
    results: dict[str, dict[str, Result]] = {}
    for measured in (fix_keys, extract_text, graft_mtp):
        print(f" {measured.__name__}", file=sys.stderr)
        results[measured.__name__] = measured(folder, repeat)
    source = Artifact.open(folder / "fetch_source")
    donor = Artifact.open(folder / "fetch_donor")
    text = Artifact.open(folder / "extract_text")
    return {
        "source_bytes": source.facts["bytes"],
        "tensors": source.facts["tensors"],
        "shards": len(shards(source)),
        "extract_text_rewrote_shards": text.facts["shards_rewritten"],
        "mtp_bytes": donor.facts["mtp_bytes"],
        "ratios": ratios(results, lambda result: result.seconds),
        "ratios_of_best_runs": ratios(results, lambda result: min(result.runs)),
        "peak_rss_mb": {name: group[name].peak_rss_mb for name, group in results.items()},
        "results": {
            name: {command: asdict(result) for command, result in group.items()}
            for name, group in results.items()
        },
    }


def ratios(
    results: dict[str, dict[str, Result]], seconds: Callable[[Result], float]
) -> dict[str, float]:
    """How long each stage took beside each of its peers."""
    return {
        f"{first} / {second}": round(seconds(group[first]) / seconds(group[second]), 3)
        for group in results.values()
        for first, second in pairs(group)
    }


def pairs(group: dict[str, Result]) -> list[tuple[str, str]]:
    """What is compared with what: the copy alone with `cp`, the whole with copy and hash."""
    ours = [name for name in group if not name.startswith("cp")]
    return [
        (name, peer)
        for name in ours
        for peer in group
        if peer.startswith("cp") and ("without" in name) == (peer == "cp")
    ]


def fix_keys(folder: Path, repeat: int) -> dict[str, Result]:
    """All shards are copied, each with a new header."""
    source, scratch = folder / "fetch_source", folder / "scratch"
    # Where its files are: `cp` would copy the link.
    files = source.resolve()
    rename = [sys.executable, str(SUPPORT / "rename_only.py"), str(files), str(scratch)]
    copying = {
        "cp": fresh(["cp", "-r", str(files), str(scratch)], scratch),
        "fix_keys without hashing": fresh(rename, scratch),
    }
    hashing = {
        **peers([files], scratch),
        "fix_keys": fresh(stage("fix_keys", scratch, source=pointer(source)), scratch),
    }
    # A copy alone is short, and on a virtual machine its time varies twofold.
    return {**compared(copying, scratch, 3 * repeat), **compared(hashing, scratch, repeat)}


def extract_text(folder: Path, repeat: int) -> dict[str, Result]:
    """The shards that hold a part of the tower are written anew; here that is nearly all."""
    fixed, scratch = folder / "fix_keys", folder / "scratch"
    call(stage("fix_keys", fixed, source=pointer(folder / "fetch_source")))
    command = stage("extract_text", scratch, fixed=pointer(fixed))
    table = Artifact.open(fixed).tensors()
    names = {row["file"] for name, row in table.items() if "visual" in name}
    rewritten = [fixed / name for name in sorted(names)]
    return compared(
        {**peers(rewritten, scratch), "extract_text": fresh(command, scratch)}, scratch, repeat
    )


def graft_mtp(folder: Path, repeat: int) -> dict[str, Result]:
    """The head is linked, and hashed already; the yardstick writes and hashes its bytes."""
    donor, scratch = folder / "fetch_donor", folder / "scratch"
    text, quantized = folder / "extract_text", folder / "quantize_nvfp4"
    call(stage("extract_text", text, fixed=pointer(folder / "fix_keys")))
    call([sys.executable, str(SUPPORT / "stand_in.py"), text, quantized])
    parts = {"quantized": quantized, "fixed": folder / "fix_keys", "donor": donor}
    # It holds the head alone, so that nothing tells whose it is.
    options = {"trusted-donor": Artifact.open(donor).facts["location"], **GRAFT_OPTIONS}
    pointers = {name: pointer(part) for name, part in parts.items()}
    command = stage("graft_mtp", scratch, **pointers, **options)
    head = [donor / name for name in shards(Artifact.open(donor))]
    return compared({**peers(head, scratch), "graft_mtp": fresh(command, scratch)}, scratch, repeat)


def compared(candidates: dict[str, Candidate], scratch: Path, repeat: int) -> dict[str, Result]:
    """Measure, and clear away what is left; all write to one place, so all find equal memory."""
    results = compare(candidates, repeat=repeat)
    forget(scratch)
    return results


def shards(artifact: Artifact) -> list[str]:
    """The safetensors files of an artifact."""
    return [name for name in artifact.files if name.endswith(".safetensors")]


def call(command: Sequence[str | Path]) -> None:
    """Run what is not measured."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stderr}")


def verdicts(sizes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each target, with what was found at the largest size; memory is the peak of all sizes."""
    largest = max(sizes, key=lambda size: size["source_bytes"])
    figures = {name: largest["ratios"][name] for name in MAX_RATIO}
    rows = {
        name: {"at_most": most, "found": figures[name], "met": figures[name] <= most}
        for name, most in MAX_RATIO.items()
    }
    peak = max(value for size in sizes for value in size["peak_rss_mb"].values())
    rows["peak_rss_mb"] = {"at_most": MAX_RSS_MB, "found": peak, "met": peak <= MAX_RSS_MB}
    return rows


def main() -> int:
    """Parse arguments, measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gigabytes",
        type=float,
        nargs="+",
        default=[1, 4],
        help="sizes of the checkpoints (1 4); the disk must hold three times the largest",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        help="runs of each command (3); copies alone run three times as often",
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args()
    unwind_when_ended()
    sizes: list[dict[str, Any]] = []
    where = machine(args.folder or Path(tempfile.gettempdir()))
    for gigabytes in args.gigabytes:
        with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
            sizes.append(measure(Path(name), gigabytes=gigabytes, repeat=args.repeat))
    report = {
        "benchmark": "surgery",
        "machine": where,
        "cache": "warm",
        "repeat": args.repeat,
        "targets": verdicts(sizes),
        "sizes": sizes,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
