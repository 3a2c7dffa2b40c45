"""Are the weights of a release the same bytes, whatever makes them?

The default release is made up to its last stage with weights, healed head included, in clean clones
of this checkout: once more, on one core, by another Python, and with a store on another file
system, to which links can't lead, so that every file is a copy. The contents of each stage's
artifact are compared with those of the first run. The head learns from fewer replies, for fewer
steps, and from greedy ones alone: a sampled reply is drawn without a seed, so that another run
draws others, and is an input of the training. Progress goes to stderr; a table and one line of JSON
to stdout. Nothing is timed, and nothing stays on disk.

    .venv/bin/python bench/reproducibility.py --python-environment DIR --other-folder /dev/shm

DIR is an environment of the same lock by another Python, as this makes one:

    UV_PROJECT_ENVIRONMENT=DIR uv sync --locked --all-extras --no-dev --python 3.12
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.measure import cores, machine, unwind_when_ended

ROOT = Path(__file__).parents[1]
RELEASE = "pico-agent-nvfp4-text-mtp"
STAGES = (
    *("fetch_source", "fetch_donor", "fix_keys", "extract_text", "quantize_nvfp4", "graft_mtp"),
    *("sample_replies", "heal_mtp"),
)


@dataclass(frozen=True)
class Variant:
    """One way to make the release.

    Attributes:
        name: Of it, and of its clone's folder.
        environment: The root environment that runs the workflow.
        prefix: What the command line begins with.
        store: Where its artifacts are kept.
    """

    name: str
    environment: Path
    prefix: Sequence[str] = ()
    store: str = "results/.store"


def made(variant: Variant, folder: Path) -> dict[str, str]:
    """The content of each stage's artifact, by stage, of a run in a clean clone."""
    clone = folder / variant.name.replace(" ", "-")
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    for environment in ROOT.glob("envs/*/.venv"):
        (clone / environment.relative_to(ROOT)).symlink_to(environment)
    (clone / ".venv").symlink_to(variant.environment.resolve())
    config = yaml.safe_load((ROOT / f"config/releases/{RELEASE}.yaml").read_text())
    healing = config["healing"]
    healing["replies"] |= {"limit": 16, "sampled_share": 0}
    healing["training"] |= {"steps": 8}
    config["store"] = [variant.store]
    (clone / "own.yaml").write_text(yaml.safe_dump(config))
    path = f"{clone}/.venv/bin:{os.environ['PATH']}"
    command = [
        *(*variant.prefix, f"{clone}/.venv/bin/snakemake", "--cores", "all"),
        *("--configfile", "own.yaml", "--until", STAGES[-1]),
    ]
    print(f"== {variant.name}: {' '.join(command)}", file=sys.stderr)
    subprocess.run(
        command,
        cwd=clone,
        env={**os.environ, "PATH": path, "PYTHONPATH": f"{clone}/workflow"},
        check=True,
        stdout=sys.stderr,
    )
    results = clone / "results" / RELEASE
    return {
        stage: json.loads((results / f"{stage}.json").read_bytes())["content"] for stage in STAGES
    }


def version(environment: Path) -> str:
    """The Python of an environment."""
    command = [
        str(environment / "bin/python"),
        "-c",
        "import platform as p; print(p.python_version())",
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Parse arguments, make the variants, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python-environment", type=Path, metavar="DIR", help="of another Python")
    parser.add_argument("--other-folder", type=Path, metavar="DIR", help="of another file system")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work")
    args = parser.parse_args()
    unwind_when_ended()
    own = ROOT / ".venv"
    with (
        tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name,
        tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.other_folder) as other,
    ):
        variants = [
            Variant("first", own),
            Variant("again", own),
            Variant("one core", own, prefix=("taskset", "-c", "0")),
        ]
        if args.python_environment is not None:
            variants.append(Variant("other Python", args.python_environment))
        if args.other_folder is not None:
            variants.append(Variant("other file system", own, store=f"{other}/store"))
        where = machine(Path(name))
        contents = {variant.name: made(variant, Path(name)) for variant in variants}
    report: dict[str, Any] = {}
    for variant in variants:
        found = contents[variant.name]
        other_than_first = [stage for stage in STAGES if found[stage] != contents["first"][stage]]
        report[variant.name] = {
            "python": version(variant.environment),
            "cores": 1 if variant.prefix else cores(),
            "contents": found,
            "differ": other_than_first,
        }
        print(
            f"{variant.name:<20} {', '.join(other_than_first) or 'the same bytes in every stage'}"
        )
    print(
        json.dumps(
            {
                "benchmark": "reproducibility",
                "machine": where,
                "platform": platform.platform(),
                "variants": report,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
