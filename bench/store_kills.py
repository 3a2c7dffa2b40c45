"""Kill the workflow at random moments, run it once more, and see whether the release is right.

    python bench/store_kills.py --runs 60 --stages 20 --signals 20

In a clone of this repository. Each round asks for one of several configurations of the embedded
pair, over whatever the rounds before have left; the run is stopped at a random moment, and the
same command follows, once, as it is:

- `--runs`: SIGKILL to the process group of `snakemake`, as `kill -9` or a lost session sends it
- `--stages`: SIGKILL to the stage's own process alone, as the out-of-memory killer sends it
- `--signals`: SIGINT and SIGTERM by turns to the process group, as Ctrl-C and a scheduler send it

Of each round is noted: the exit code of the second run; whether all artifacts have the content
that an undisturbed run gave; whether `scion store verify` finds anything; processes that are left.
`--served N` of the rounds of each kind go on to the servers' stages; what they measure differs from
run to run, so of those stages it is compared that they are there. Artifacts are dropped between
rounds, so that there is something to do. The last line is JSON.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from support.clone import clone_project
from support.measure import machine, unwind_when_ended

BIN = Path(sys.executable).parent
RELEASE = "pico-agent-nvfp4-text-mtp"
# What makes a round short.
BASE = {
    "quantization": {"recipe": "nvfp4_default"},
    "measurement": {
        "decode_tokens": [8],
        "repeats": 5,
        "reply_tokens": 8,
        "speculative_tokens": [3],
    },
    "agent_tasks": {"cases": 1, "required_passes": 0, "minimum_rate": 0},
    "quality": {"samples": 2, "max_tokens": 300},
    "ifeval": {"enabled": False},
    "bfcl": {"enabled": False},
}
WEIGHTS = (
    *("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text"),
    *("quantize_nvfp4", "graft_mtp", "verify_release"),
)
MEASURED = ("measure_serving", "run_agent_tasks", "evaluate_quality", "render_card", "seal_release")


class Clone:
    """A clone of the repository in which the workflow is run.

    Args:
        folder: Where it goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, **clone_project(folder)}
        self.results = folder / "results" / RELEASE

    def command(self, configuration: int, *, served: bool) -> list[str]:
        """The command of a round; configurations differ in what is calibrated with."""
        sets = {"sets": [{"samples": 2 + configuration}]}
        values = {**BASE, "quantization": {**BASE["quantization"], "calibration": sets}}
        (self.folder / f"{configuration}.yaml").write_text(json.dumps(values))
        until = () if served else ("--until", "verify_release")
        options = ("--cores", "all", "--configfile", f"{configuration}.yaml")
        return [str(BIN / "snakemake"), *options, *until]

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a program in a process group of its own; what it says goes into a file."""
        with (self.folder / "said").open("wb") as said:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def contents(self, stages: tuple[str, ...]) -> dict[str, str]:
        """The content that each stage's pointer names."""
        pointers = {stage: self.results / f"{stage}.json" for stage in stages}
        return {
            stage: json.loads(pointer.read_text())["content"]
            for stage, pointer in pointers.items()
            if pointer.is_file()
        }

    def drop(self, chance: random.Random) -> None:
        """Remove some artifacts with the records that name them, and at times what shows them."""
        store = self.folder / "results/.store"
        by_content: dict[str, list[Path]] = {}
        for record in store.glob("records/*.json"):
            content = json.loads(record.read_text())["content"].removeprefix("sha256:")
            by_content.setdefault(content, []).append(record)
        for content, records in sorted(by_content.items()):
            if chance.random() < 0.35:
                for record in records:
                    record.unlink()
                shutil.rmtree(store / "artifacts" / content)
        if chance.random() < 0.3:
            shutil.rmtree(self.results, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """The processes that run anything of this clone."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if str(self.folder) in " ".join([*process.cmdline(), process.cwd()]):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def stop(clone: Clone, run: subprocess.Popen[bytes], kind: str, number: int) -> str:
    """Send a round's signal; what it was sent to."""
    if kind != "stages":
        signals = [signal.SIGKILL] if kind == "runs" else [signal.SIGINT, signal.SIGTERM]
        chosen = signals[number % len(signals)]
        os.killpg(run.pid, chosen)
        return f"{chosen.name} to the run"
    for process in clone.processes():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        stage = next((word for word in words if word.startswith("scion.stages.")), None)
        if stage and words[1:2] == ["-m"]:
            process.kill()
            return f"SIGKILL to {stage.rpartition('.')[2]}"
    return "no stage at work"


def rounds(args: argparse.Namespace) -> Iterator[tuple[str, int, bool]]:
    """Kind and number of each round, and whether it goes on to the servers."""
    for kind in ("runs", "stages", "signals"):
        for number in range(getattr(args, kind)):
            yield kind, number, number < args.served


def one(
    clone: Clone, kind: str, number: int, served: bool, chance: random.Random, known: Any
) -> Any:
    """One round, as it is noted."""
    configuration = chance.randrange(len(known))
    clone.drop(chance)
    command = clone.command(configuration, served=served)
    began = time.monotonic()
    first = clone.start(command)
    try:
        first.wait(timeout=chance.uniform(0.5, 100.0 if served else 13.0))
        sent = "it had ended"
    except subprocess.TimeoutExpired:
        sent = stop(clone, first, kind, number)
    if "no stage" in sent:
        os.killpg(first.pid, signal.SIGKILL)
        sent = "SIGKILL to the run, no stage at work"
    first.wait()
    log = clone.results.parent.parent / "said"
    before = log.read_text(errors="replace")[-300:]
    moment = time.monotonic() - began
    second = clone.start(command)
    second.wait()
    said = log.read_text(errors="replace")
    verify = subprocess.run(
        [BIN / "scion", "store", "verify"],
        cwd=clone.folder,
        env=clone.environment,
        capture_output=True,
        text=True,
    )
    # The fork server takes a moment to end its servers.
    end = time.monotonic() + 20
    while clone.processes() and time.monotonic() < end:
        time.sleep(0.5)
    # What the last stage does not need was perhaps not made again.
    made, there = clone.contents(WEIGHTS), clone.contents(MEASURED)
    result = {
        "kind": kind,
        "configuration": configuration,
        "served": served,
        "sent": sent,
        "after_seconds": round(moment, 1),
        "second_run": second.returncode,
        "same_contents": made.items() <= known[configuration].items() and WEIGHTS[-1] in made,
        "measured": len(there) == len(MEASURED) if served else None,
        "verify": verify.returncode,
        "left": [" ".join(process.cmdline())[:200] for process in clone.processes()],
    }
    right = (result["second_run"], result["verify"], result["left"]) == (0, 0, [])
    result["right"] = right and result["same_contents"] and result["measured"] is not False
    if not result["right"]:
        result["said"] = before + said[-1500:] + verify.stdout[-500:] + verify.stderr[-1000:]
    print(json.dumps({key: result[key] for key in result if key != "said"}), file=sys.stderr)
    return result


def _counts(noted: list[dict[str, Any]]) -> dict[str, int]:
    return {"rounds": len(noted), "right": sum(each["right"] for each in noted)}


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=6, help="rounds of SIGKILL to the run")
    parser.add_argument("--stages", type=int, default=2, help="rounds of SIGKILL to a stage")
    parser.add_argument("--signals", type=int, default=2, help="rounds of SIGINT and SIGTERM")
    parser.add_argument("--served", type=int, default=0, help="of each kind, with servers")
    parser.add_argument("--seed", type=int, default=1, help="of all that is chosen by chance")
    parser.add_argument("--output", type=Path, help="file for the record; written after each round")
    args = parser.parse_args()
    unwind_when_ended()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        clone = Clone(Path(folder, "clone"))
        known: list[dict[str, str]] = []
        for configuration in range(3):
            undisturbed = clone.start(clone.command(configuration, served=False))
            assert undisturbed.wait() == 0, (clone.folder / "said").read_text()
            known.append(clone.contents(WEIGHTS))
        noted: list[dict[str, Any]] = []
        about = {"machine": machine(Path(folder)), "seed": args.seed}
        for kind, number, served in rounds(args):
            noted.append(one(clone, kind, number, served, chance, known))
            if args.output:
                record = {**about, **_counts(noted), "noted": noted}
                args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(_counts(noted)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
