r"""Does a head whose training was killed come to the same bytes as one whose training was not?

The MTP head of a release is trained once in one go, and once by processes that are killed (SIGKILL)
at random times while they train, each going on from what the one before had kept. Given are a
release with a head and what `sample_replies` made for it.

    python bench/healing_resume.py RELEASE REPLIES --device cuda --kills 3

Both keep what they have reached every second; `heal_mtp` does every minute. Progress goes to
stderr, one line of JSON to stdout. Exit code 1 if the bytes differ.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from support.measure import machine, unwind_when_ended

import scion.healing.training as loop
from scion.healing.config import Training
from scion.healing.heal import heal, raw_bytes
from scion.healing.texts import read_texts


def train(args: argparse.Namespace) -> int:
    """Train in this process, and print the digest of the head's bytes, by name."""
    loop._SAVE_SECONDS = 1.0  # pyright: ignore[reportPrivateUsage]
    loop._SAVE_SHARE = 0  # pyright: ignore[reportPrivateUsage]
    settings = Training(device=args.device, steps=args.steps, batch_tokens=8192)
    healed = heal(args.release, read_texts(args.replies), settings, work=args.work)
    digest = hashlib.sha256()
    for name in sorted(healed.tensors):
        digest.update(name.encode() + raw_bytes(healed.tensors[name]))
    result = {"tensors": len(healed.tensors), "sha256": digest.hexdigest(), "curve": healed.curve}
    print(json.dumps(result))
    return 0


def child(args: argparse.Namespace, work: Path) -> "subprocess.Popen[str]":
    """Start such a process."""
    options = ["--device", args.device, "--steps", str(args.steps), "--work", str(work)]
    command = [sys.executable, __file__, str(args.release), str(args.replies), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed(args: argparse.Namespace, work: Path, turn: random.Random) -> int | None:
    """Kill a process while it trains: after which step the next goes on; None if it had ended."""
    kept = work / loop.KEPT
    before = kept.stat().st_mtime_ns if kept.exists() else 0
    process = child(args, work)
    while process.poll() is None and not (kept.exists() and kept.stat().st_mtime_ns > before):
        time.sleep(0.01)
    time.sleep(turn.uniform(0, 1.5))
    ended = process.poll() is not None
    process.kill()
    process.communicate()
    if ended:
        return None
    state: dict[str, Any] = torch.load(kept, map_location="cpu", weights_only=True)
    return state["reached"]["step"]


def finished(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a process has printed at its end."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"training ended with exit code {process.returncode}")
    return json.loads(output.splitlines()[-1])


def main() -> int:
    """Parse arguments, train, kill, and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("release", type=Path, help="folder, with a head")
    parser.add_argument("replies", type=Path, help="replies.jsonl of sample_replies")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return train(args)
    unwind_when_ended()
    with tempfile.TemporaryDirectory(prefix="scion-bench-") as name:
        folder, turn = Path(name), random.Random(0)
        works = [folder / "whole", folder / "killed"]
        for work in works:
            work.mkdir()
        whole = finished(child(args, works[0]))
        steps = [killed(args, works[1], turn) for _ in range(args.kills)]
        pieces = finished(child(args, works[1]))
        where = machine(folder)
    same = whole == pieces
    result: dict[str, Any] = {
        "benchmark": "healing_resume",
        "machine": where,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "steps": args.steps,
        "killed_and_went_on_after": [step for step in steps if step is not None],
        "whole": whole,
        "killed": pieces,
        "same_bytes": same,
    }
    print(json.dumps(result))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
