"""Count the bytes that a run reads and writes, beside those that it must.

    python bench/store_bytes.py

In a clone of this repository, over the embedded pair, one after the other: the conversion up to
`verify_release` is run, and run again after each of several changes; then the card is written and
sealed, and a second release is made that differs in its card alone. No server runs: what it would
have measured is planted (`tests/plant.py`), as the tests of the report do. `strace` (Linux)
counts what `snakemake` and all that it starts read and write of files below `results/` and
`resources/`:

- data: files of artifacts, finished or in the making, of checkpoints and samples, of the release
- notes: what the store and the workflow keep for themselves, which is records, known digests,
  names of sources, pointers, roots, leases

Beside them stands the smallest number, from the manifests (`support/smallest.py`). By case:

- first run: what all stages must read and write
- again, a comment, back to the first samples: nothing
- a constant in fix_keys, whose bytes stay the same: what fix_keys reads and writes
- another number of samples: what quantize_nvfp4, graft_mtp and verify_release read and write
- all sources touched: each once, to know that they are what they were; of the donor its head
- seal, the card's template edited: what render_card and seal_release read and write
- a second release, up to verify_release: nothing; its card: as for the template

What a stage has written it reads once more, to hash it; that is the column "hashed", and read
should be about "smallest" and "hashed" together. "Mapped" files are read through memory, so they
count by their length, once a stage, beside what is read. Of the bytes of quantize_nvfp4, 64 MiB
written and up to as many read are its probe of the disk, for the time that it foretells. Seconds
are those of the run under `strace`, which slows it; those of three cases are taken again without
it, after the same change. The last line is JSON.
"""

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from support.clone import PROJECT, clone_project
from support.measure import machine, unwind_when_ended
from support.smallest import Made, Needs
from support.traced import Moved, Run, run

BIN = Path(sys.executable).parent
RELEASE, SECOND = "pico-agent-nvfp4-text-mtp", "second"
WEIGHTS = (
    *("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text"),
    *("quantize_nvfp4", "graft_mtp", "verify_release"),
)
BELOW_SAMPLES = ("quantize_nvfp4", "graft_mtp", "verify_release")
CARD = ("render_card", "seal_release")
FIX_KEYS = "workflow/scion/stages/fix_keys.py"
TEMPLATE = "workflow/templates/card.md.jinja"
UNTIL = ("--until", "verify_release")
# With the base model, of which the card tells.
UNTIL_MEASURED = (*UNTIL, "fetch_base")
_DATA = re.compile(r"resources/|results/\.store/(artifacts|work)/|results/[^/]+/\.?release[./]")
_COPY = re.compile(r"results/[^/]+/\.pointers/.*\.(md|svg)$")


@dataclass(frozen=True)
class Case:
    """A change, and the run after it.

    Attributes:
        title: What changed.
        change: Makes the change.
        needs: What the run must read and write, asked once it has ended.
        options: Of `snakemake`, behind the configuration.
        configuration: The file that is asked for.
        seconds: Whether to change and run once more, without `strace`.
    """

    title: str
    change: Callable[[], object]
    needs: Callable[[], Needs]
    options: tuple[str, ...] = UNTIL
    configuration: str = "few.yaml"
    seconds: bool = False


class Clone:
    """A clone of the repository in which the workflow is run.

    Args:
        folder: Where it goes.
        samples: Samples of the first configuration; the other has one more.
    """

    def __init__(self, folder: Path, samples: int) -> None:
        self.folder = folder
        self.environment = {**os.environ, **clone_project(folder)}
        self._configure("few", samples)
        self._configure("more", samples + 1)
        self._configure("second", samples, release=SECOND, card={"title": "A second card"})

    def _configure(self, name: str, samples: int, **others: object) -> None:
        sets = {"sets": [{"samples": samples}]}
        values = {"quantization": {"recipe": "nvfp4_default", "calibration": sets}, **others}
        (self.folder / f"{name}.yaml").write_text(json.dumps(values))

    def run(self, configuration: str, *options: str, trace: bool = False) -> Run:
        """Run the workflow."""
        command = [str(BIN / "snakemake"), "--cores", "all", "--configfile", configuration]
        return run(
            [*command, *options], folder=self.folder, environment=self.environment, trace=trace
        )

    def add(self, path: str, text: str) -> None:
        """Add text to the end of a file."""
        with (self.folder / path).open("a") as file:
            file.write(text)

    def touch(self) -> None:
        """Give all sources the present date, code and data."""
        for name in ("resources", "rules", "workflow"):
            for path in (self.folder / name).rglob("*"):
                path.touch()

    def plant(self, configuration: str) -> None:
        """Put measured results where the workflow looks for them; bring what they are beside."""
        self.run(configuration, *UNTIL_MEASURED)
        release = self.folder / "results" / RELEASE
        script = str(PROJECT / "tests/plant.py")
        command = [sys.executable, script, str(self.folder), str(release)]
        subprocess.run(
            [*command, "--configfile", configuration],
            cwd=self.folder,
            env=self.environment,
            check=True,
            stderr=subprocess.DEVNULL,
        )

    def made(self, release: str = RELEASE) -> Made:
        """What the results show."""
        return Made.open(self.folder / "results" / release, self.folder / "resources")


def cases(clone: Clone) -> list[Case]:
    """The cases, in their order."""

    def needs(*stages: str, release: str = RELEASE) -> Callable[[], Needs]:
        return lambda: sum(map(clone.made(release).needs, stages), Needs())

    def looked_at() -> Needs:
        fetched = ("fetch_source", "fetch_donor", "quantize_nvfp4")
        return Needs(sum(map(clone.made().looked_at, fetched)))

    def comment() -> None:
        clone.add(FIX_KEYS, "# A remark.\n")

    def constant() -> None:
        clone.add(FIX_KEYS, "\n_SPARE = 1\n")

    def template() -> None:
        clone.add(TEMPLATE, "\nA remark.\n")

    def others() -> Run:
        """So that there is a way back, both times."""
        return clone.run("more.yaml", *UNTIL)

    second = "second.yaml"
    return [
        Case("first run", int, needs(*WEIGHTS)),
        Case("the same again", int, Needs, seconds=True),
        Case("a comment in fix_keys", comment, Needs, seconds=True),
        Case("a constant in fix_keys", constant, needs("fix_keys")),
        Case("other samples", int, needs(*BELOW_SAMPLES), configuration="more.yaml"),
        Case("back to the first", others, Needs, seconds=True),
        Case("all sources touched", clone.touch, looked_at),
        Case("seal", lambda: clone.plant("few.yaml"), needs(*CARD), ()),
        Case("the card's template", template, needs(*CARD), ()),
        Case("a second release", int, Needs, UNTIL_MEASURED, second),
        Case(
            *("its card", lambda: clone.plant(second)),
            *(needs(*CARD, release=SECOND), (), second),
        ),
    ]


def counted(moved: Counter[tuple[str, str]], root: Path) -> tuple[Counter[str], Counter[str]]:
    """Bytes of data and of notes, each by stage and file, of what lies below `root`."""
    data, notes = Counter[str](), Counter[str]()
    for (stage, path), size in moved.items():
        name = path.removeprefix(f"{root}/")
        if name != path and name.startswith(("results/", "resources/")):
            is_data = _DATA.match(name) or _COPY.match(name)
            (data if is_data else notes)[f"{stage or 'workflow'} {name}"] += size
    return data, notes


def by_stage(files: Counter[str]) -> dict[str, int]:
    """Bytes by stage, the largest first."""
    found = Counter[str]()
    for name, size in files.items():
        found[name.partition(" ")[0]] += size
    return dict(found.most_common())


def one(clone: Clone, case: Case, details: dict[str, Any]) -> dict[str, Any]:
    """One case, as it is noted."""
    print(case.title, file=sys.stderr)
    case.change()
    done = clone.run(case.configuration, *case.options, trace=True)
    row = {"case": case.title, **_jobs(done), **_bytes(done.moved, clone, details, case.title)}
    row |= {"smallest": asdict(case.needs()), "seconds_with_strace": round(done.seconds, 1)}
    if case.seconds:
        case.change()
        row["seconds"] = round(clone.run(case.configuration, *case.options).seconds, 1)
    return row


def _jobs(done: Run) -> dict[str, Any]:
    found = set(re.findall(r"^(\w+): the store has it$", done.said, re.MULTILINE))
    return {"jobs": len(done.stages), "made": [name for name in done.stages if name not in found]}


def _bytes(moved: Moved, clone: Clone, details: dict[str, Any], title: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    details[title] = {}
    for kind, found in vars(moved).items():
        data, notes = counted(found, clone.folder)
        details[title][kind] = {"data": dict(data.most_common()), "notes": notes.total()}
        row[kind] = data.total()
        row[f"{kind}_by_stage"] = by_stage(data)
        if kind != "mapped":
            row[f"notes_{kind}"] = notes.total()
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in thousands of bytes, for people."""
    heads = ("jobs", "made", "read", "smallest", "hashed", "mapped", "written", "smallest")
    lines = [" " * 24 + "".join(f"{head:>10}" for head in (*heads, "notes r", "notes w", "s"))]
    for row in rows:
        least = row["smallest"]
        sizes = (row["read"], least["read"], least["hashed"], row["mapped"])
        sizes += (row["written"], least["written"], row["notes_read"], row["notes_written"])
        cells = (row["jobs"], len(row["made"]), *(f"{size / 1000:.0f}" for size in sizes))
        seconds = f"{row['seconds']} *" if "seconds" in row else row["seconds_with_strace"]
        lines.append(f"{row['case']:<24}" + "".join(f"{cell:>10}" for cell in (*cells, seconds)))
    return "\n".join([*lines, "bytes in kB; s: seconds under strace; * without it"])


def main() -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2, help="of the first configuration")
    parser.add_argument("--folder", type=Path, help="where to clone; 0.3 GB, removed at the end")
    parser.add_argument("--details", type=Path, help="file for the bytes by case, stage and file")
    args = parser.parse_args()
    unwind_when_ended()
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as folder:
        about = machine(Path(folder))
        clone = Clone(Path(folder).resolve() / "clone", args.samples)
        details: dict[str, Any] = {}
        rows = [one(clone, case, details) for case in cases(clone)]
    if args.details:
        args.details.write_text(json.dumps(details, indent=1) + "\n")
    print(table(rows), file=sys.stderr)
    strace = subprocess.run(["strace", "--version"], capture_output=True, text=True).stdout
    versions = {
        "snakemake": importlib.metadata.version("snakemake"),
        "strace": strace.split()[3],
    }
    record = {"machine": about, "versions": versions, "samples": args.samples, "cases": rows}
    print(json.dumps({"benchmark": "store_bytes", **record}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
