"""How long does Snakemake take to plan a family of hundreds, and in how much memory?

    python bench/dag.py --releases 500

A family of fine-tunes of a 27B, each with a source of its own on the hub, pinned, all with one
donor: as many config files as releases, as a publisher would keep them. `snakemake -n` plans it in
a clone of this repository, from nothing; no repository is read, for no hub is asked. Beside it,
the same with a tenth of the releases: what grows faster than the family would show there. The last
line is JSON.
"""

import argparse
import hashlib
import os
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from support.clone import PROJECT, clone_project
from support.measure import Candidate, compare, machine, tell, unwind_when_ended

SHARED = "config/families/qwen3.6-27b.yaml"
SECONDS, MEGABYTES = 60, 500
"""What was asked for of 500 releases."""


def main() -> int:
    """Measure, and print one line of JSON last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--releases", type=int, default=500, help="default 500")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; default 3")
    parser.add_argument("--output", type=Path, help="also write the report to this file")
    args = parser.parse_args()
    unwind_when_ended()
    with tempfile.TemporaryDirectory(prefix="scion-dag-") as folder:
        checkout = Path(folder, "clone")
        # Whether a hub can be reached is no part of what is measured.
        os.environ |= clone_project(checkout) | {"HF_HUB_OFFLINE": "1"}
        tell(measure(checkout, args.releases, args.repeat), args.output)
    return 0


def measure(checkout: Path, releases: int, repeat: int) -> dict[str, Any]:
    """Plan both families in turns."""
    counts = {"a tenth": max(1, releases // 10), "all": releases}
    candidates = {
        name: Candidate(["bash", "-ec", script(checkout, count)], lambda: None)
        for name, count in counts.items()
    }
    results = compare(candidates, repeat=repeat)
    log = checkout / f"plan-{releases}.log"
    return {
        "machine": machine(checkout),
        "command": f"python bench/dag.py --releases {releases} --repeat {repeat}",
        "releases": counts,
        "stages": log.read_text().count("not made yet"),
        "results": {name: asdict(result) for name, result in results.items()},
        "asked_for": {"seconds": SECONDS, "peak_rss_mb": MEGABYTES},
    }


def script(checkout: Path, releases: int) -> str:
    """A shell command that plans a family, whose files it writes before."""
    config = write_family(checkout / "config" / f"dag-{releases}", releases)
    command = [str(PROJECT / ".venv/bin/snakemake"), "-n", "--configfile", str(config)]
    log = checkout / f"plan-{releases}.log"
    return f"cd {shlex.quote(str(checkout))}; exec {shlex.join(command)} >{shlex.quote(str(log))}"


def write_family(folder: Path, releases: int) -> Path:
    """Write the config files of a family, one for each release.

    Args:
        folder: Where they go.
        releases: How many.

    Returns:
        The family's file.
    """
    folder.mkdir(parents=True)
    base = f"Qwen/Qwen3.6-27B@{commit('base')}"
    family = yaml.safe_load((PROJECT / SHARED).read_text())
    (calibration,) = family["quantization"]["calibration"]["sets"]
    calibration["dataset"] += f"@{commit('calibration')}"
    family |= {"source": f"hf://{base}", "donor": f"hf://{base}", "releases": []}
    family["card"]["base"] = "Qwen/Qwen3.6-27B"
    for number in range(releases):
        name = f"tune-{number:03}"
        card = {"title": name, "repository": f"publisher/{name}-NVFP4"}
        card |= {"summary": f"Fine-tune {number}.", "parent": f"tuner/{name}"}
        release = {"release": name, "source": f"hf://tuner/{name}@{commit(name)}", "card": card}
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(release))
        family["releases"].append(str(file))
    family["family"] = {"name": "many", "title": "Many", "baseline": "tune-000"}
    (folder / "family.yaml").write_text(yaml.safe_dump(family))
    return folder / "family.yaml"


def commit(name: str) -> str:
    """Forty digits, as a commit of the hub has."""
    return hashlib.sha1(name.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
