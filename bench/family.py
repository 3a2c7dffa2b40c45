"""What does a family cost to make, beside one of its releases and beside each of them alone?

    python bench/family.py --repeat 3

In a clone of this repository, from nothing to `verify_release` of each release, in turns:

- `one`: the release of config/default.yaml, which is one of the family's
- `family`: all of config/families/pico.yaml in one run; at most 1.6 times `one` was asked for
- `each alone`: the five, one run after another, nothing shared between them: what a family costs
  where its releases are made by hand

Every run begins without results and store. The last line is JSON.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from support.clone import PROJECT, clone_project
from support.measure import Candidate, compare, machine, tell, unwind_when_ended

FAMILY = "config/families/pico.yaml"
AT_MOST = 1.6


def main() -> int:
    """Measure, and print one line of JSON last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; default 3")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    args = parser.parse_args()
    unwind_when_ended()
    with tempfile.TemporaryDirectory(prefix="scion-family-") as folder:
        checkout = Path(folder, "clone")
        os.environ |= clone_project(checkout)
        tell(measure(checkout, args.repeat), args.output)
    return 0


def measure(checkout: Path, repeat: int) -> dict[str, Any]:
    """Run all three in turns."""
    entries = yaml.safe_load((checkout / FAMILY).read_text())["releases"]
    # What is no file has the values of config/default.yaml.
    alone = [["--configfile", entry] if isinstance(entry, str) else [] for entry in entries]
    runs = {"one": [[]], "family": [["--configfile", FAMILY]], "each alone": alone}
    candidates = {
        name: Candidate(["bash", "-ec", script(checkout, options)], lambda: None)
        for name, options in runs.items()
    }
    results = compare(candidates, repeat=repeat)
    one, family, apart = (results[name].seconds for name in runs)
    return {
        "machine": machine(checkout),
        "commit": _output(["git", "-C", str(checkout), "rev-parse", "HEAD"]),
        "releases": len(entries),
        "results": {name: asdict(result) for name, result in results.items()},
        "family_by_one": {"ratio": round(family / one, 2), "at_most": AT_MOST},
        "family_by_each_alone": round(family / apart, 2),
    }


def script(checkout: Path, runs: Sequence[Sequence[str]]) -> str:
    """Shell commands that make releases from nothing, one run after another."""
    snakemake = [
        str(PROJECT / ".venv/bin/snakemake"),
        "--cores",
        "all",
        "--until",
        "verify_release",
    ]
    lines = [f"cd {shlex.quote(str(checkout))}"]
    for options in runs:
        lines.append("rm -rf results logs benchmarks")
        lines.append(f"{shlex.join([*snakemake, *options])} >run.log 2>&1")
    return "\n".join(lines)


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
