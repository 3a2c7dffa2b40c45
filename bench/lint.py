"""How long does `scion lint` take on a 27B release, how much memory, and what does the hub move?

A linter is run on every commit and before every download, on laptops and in CI, so it must cost
about as much as looking. The yardstick is what people type today: `safe_open` over all shards
(and, as most do it, transformers' AutoConfig and torch before that); for a repository that is not
here, the hub library's `get_safetensors_metadata`. They look and judge nothing.

Two generated checkpoints of 15 shards are linted, the bf16 source of a 27B model (56 GB) and its
NVFP4 release (20 GB). Their headers, index and tokenizer.json are real in kind and size, their
data are holes. Each run is a fresh process, and the checkpoint's files are dropped from the page
cache before it (the interpreter and its libraries are not). The hub is one on this machine, which
counts: every HTTP request, redirects and repeated tries included, and every byte of content.
Progress goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.measure import Candidate, compare, drop_from_cache, machine, unwind_when_ended

BENCH = Path(__file__).parent
SCION = str(Path(sys.executable).with_name("scion"))
NAME = "owner/model"
# The target of each figure, at most.
TARGETS = {"seconds": 2.0, "peak_rss_mb": 200.0, "hub_bytes": 8_000_000, "requests_a_shard": 3}


def by_hand(kind: str, subject: str) -> list[str]:
    """The command line of a peer."""
    return [sys.executable, str(BENCH / "support/by_hand.py"), kind, subject]


def measure(folder: Path, *, repeat: int) -> dict[str, Any]:
    """Lint one checkpoint, here and on the hub, beside the peers."""

    def forget() -> None:
        drop_from_cache(folder.iterdir())

    results = compare(
        {
            "scion lint": Candidate([SCION, "lint", str(folder)], forget),
            "safe_open": Candidate(by_hand("safe_open", str(folder)), forget),
            "AutoConfig and safe_open": Candidate(by_hand("transformers", str(folder)), forget),
        },
        repeat=repeat,
    )
    ours = results["scion lint"]
    files = list(folder.iterdir())
    return {
        "shards": sum(path.suffix == ".safetensors" for path in files),
        "bytes": sum(path.stat().st_size for path in files),
        "seconds": ours.seconds,
        "peak_rss_mb": ours.peak_rss_mb,
        "ratios": {
            f"scion lint / {peer}": round(ours.seconds / results[peer].seconds, 3)
            for peer in list(results)[1:]
        },
        "results": {name: asdict(result) for name, result in results.items()},
        "hub": {
            "scion lint": on_hub(folder, [SCION, "lint", f"hf://{NAME}"]),
            "get_safetensors_metadata": on_hub(folder, by_hand("hub", NAME)),
        },
    }


def on_hub(folder: Path, command: Sequence[str]) -> dict[str, Any]:
    """What a command moves that reads the folder as a repository of a hub, as the hub counts it."""
    requests: list[dict[str, Any]] = []
    with serving(folder, requests) as environment:
        start = time.perf_counter()
        call(command, env=os.environ | environment)
        seconds = time.perf_counter() - start
    return {
        "bytes": sum(request["sent"] for request in requests),
        "requests": len(requests),
        "requests_a_shard": max(
            sum(path.name in request["path"] for request in requests)
            for path in folder.glob("*.safetensors")
        ),
        "seconds": round(seconds, 3),
    }


def call(command: Sequence[str], **options: Any) -> None:
    """Run a command without measuring its memory; `options` are those of `subprocess.run`."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited {done.returncode}:\n{done.stderr}")


@contextmanager
def serving(folder: Path, requests: list[dict[str, Any]]) -> Generator[dict[str, str]]:
    """Serve a folder as a repository; yields what to set in the environment, fills `requests`."""
    server = [sys.executable, str(BENCH.parent / "tools/hub_server.py"), f"{NAME}={folder}"]
    with (
        tempfile.TemporaryDirectory(prefix="scion-bench-") as home,
        subprocess.Popen(
            server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        yield {"HF_ENDPOINT": endpoint, "HF_HOME": home, "NO_PROXY": "127.0.0.1,localhost"}
        output, _ = process.communicate()
        requests += map(json.loads, output.splitlines())


def verdicts(checkpoints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each target, with the worst of what was found."""
    hubs = [checkpoint["hub"]["scion lint"] for checkpoint in checkpoints.values()]
    figures = {
        "seconds": max(checkpoint["seconds"] for checkpoint in checkpoints.values()),
        "peak_rss_mb": max(checkpoint["peak_rss_mb"] for checkpoint in checkpoints.values()),
        "hub_bytes": max(hub["bytes"] for hub in hubs),
        "requests_a_shard": max(hub["requests_a_shard"] for hub in hubs),
    }
    return {
        name: {"at_most": most, "found": figures[name], "met": figures[name] <= most}
        for name, most in TARGETS.items()
    }


def main() -> int:
    """Parse arguments, measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="runs of each command (5)")
    parser.add_argument(
        "--folder", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args()
    unwind_when_ended()
    where = machine(args.folder or Path(tempfile.gettempdir()))
    checkpoints: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
        releases = Path(name) / "made"
        # In a process of its own: what this one takes would count as its children's peak.
        call([sys.executable, str(BENCH / "support/releases.py"), str(releases)])
        for folder in sorted(releases.iterdir()):
            print(folder.name, file=sys.stderr)
            checkpoints[folder.name] = measure(folder, repeat=args.repeat)
    report = {
        "benchmark": "lint",
        "machine": where,
        "cache": "cold for the checkpoint",
        "repeat": args.repeat,
        "targets": verdicts(checkpoints),
        "checkpoints": checkpoints,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
