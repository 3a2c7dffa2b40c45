"""Where a tensor, a file or a number of a release came from: the stages behind it, with digests.

A tensor is followed through the tables in `provenance/tensors/` by its bytes, since the first
stages rename. A file is of the stage whose manifest lists it. A number is looked for among the
records in `provenance/results/`: every value that is told so, rounded or in percent. Nothing is
proved here: `scion check` holds manifests to files, `scion audit` tensors to source and donor.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from scion.architectures.families import in_head
from scion.artifacts.file_tree import FileTree, read_object, read_whole
from scion.artifacts.manifest import MANIFEST, check_manifest
from scion.artifacts.release_layout import (
    PROVENANCE,
    RENDERED,
    RESULTS,
    SEALED,
    TABLES,
    TENSORS,
    stages_before,
    stages_files,
)
from scion.checkpoint.shards import unreadable
from scion.common.bounded_json import parse_json
from scion.common.errors import ScionError
from scion.common.text import printable

# Of values that are told as a number: more would be chance.
_MATCHES = 12


@dataclass(frozen=True)
class ChainStep:
    """A stage on the way.

    Attributes:
        stage: Its name.
        manifest: What it recorded.
        inputs: The stages that it was made from.
    """

    stage: str
    manifest: Mapping[str, Any]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Where something came from.

    Attributes:
        subject: What was asked for.
        lines: What is known of itself.
        made_by: The stage that made it.
        steps: That stage and all before it, the last first.
    """

    subject: str
    lines: tuple[str, ...]
    made_by: str
    steps: tuple[ChainStep, ...]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "subject": self.subject,
            "lines": list(self.lines),
            "made_by": self.made_by,
            "steps": [
                {
                    "stage": step.stage,
                    "inputs": list(step.inputs),
                    **{
                        key: step.manifest[key]
                        for key in ("made_from", "settings", "code", "environment", "content")
                    },
                }
                for step in self.steps
            ],
        }


def explain(tree: FileTree, subject: str) -> list[Explanation]:
    """Where something of a sealed release came from.

    Args:
        tree: The files of the release.
        subject: The name of a tensor or a file, or a number as the card has it.

    Returns:
        One explanation; of a number one for each recorded value that is told so.

    Raises:
        ScionError: The release is not sealed, or has nothing of that name.
    """
    steps = _steps(tree)
    table = _table(tree, TENSORS)
    if subject in table:
        return [_tensor(tree, subject, table[subject], steps)]
    if subject in tree.files:
        return [_file(tree, subject, steps)]
    found = list(_numbers(tree, subject, steps))
    if not found:
        raise ScionError(
            "the release has nothing of that name",
            where=f"{tree.name}: {subject}",
            expected="a tensor of tensors.json, a file, or a number as the card has it",
            found=f"{len(table)} tensors, {len(tree.files)} files, and no record of such a value",
            hint="scion explain RELEASE README.md tells of the card as a whole",
        )
    return found


def dot(explanation: Explanation) -> str:
    """The chain as a graph in DOT."""
    lines = ["digraph provenance {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for step in explanation.steps:
        label = f"{step.stage}\\n{str(step.manifest['content'])[7:19]}"
        lines.append(f'  "{step.stage}" [label="{label}"];')
        lines += [f'  "{before}" -> "{step.stage}";' for before in step.inputs]
        for name in map(_quoted, _plain(step)):
            lines.append(f'  "file {name}" [label="{name}", shape=note];')
            lines.append(f'  "file {name}" -> "{step.stage}";')
    subject = _quoted(explanation.subject)
    lines.append(f'  "subject {subject}" [label="{subject}", shape=oval];')
    lines.append(f'  "{explanation.made_by}" -> "subject {subject}";')
    return "\n".join([*lines, "}"]) + "\n"


def svg(explanation: Explanation) -> str:
    """The chain as a picture.

    Raises:
        ScionError: The manifests name each other in a ring, or are too many for a picture.
        MissingExtraError: What draws it is not installed.
    """
    from scion.report.pictures.chain import chain_picture

    # No stage has such a name.
    subject = f"{printable(explanation.subject)} "
    made_from = {step.stage: list(step.inputs) for step in explanation.steps}
    made_from[subject] = [explanation.made_by] if explanation.made_by in made_from else []
    contents = {step.stage: step.manifest["content"] for step in explanation.steps}
    title = f"Where {subject}came from"
    return chain_picture("chain", title, made_from, contents, subject=subject).svg


def _quoted(text: str) -> str:
    return printable(text).replace("\\", "/").replace('"', "'")


def _plain(step: ChainStep) -> list[str]:
    """The plain files that a stage read."""
    entries = step.manifest["made_from"].values()
    return sorted({str(entry["file"]) for entry in entries if "file" in entry})


def _steps(tree: FileTree) -> dict[str, ChainStep]:
    if MANIFEST not in tree.files:
        raise ScionError(
            "the release has no manifest, so nothing says where anything in it came from",
            where=tree.name,
            expected=f"{MANIFEST} of a release that Scion has sealed",
            found="no such file",
            hint=f"scion audit {tree.name} --source S tells what can be proved without one",
        )
    sealed = _manifest(tree, MANIFEST)
    named = [name for name in tree.files if _is_manifest(name)]
    made = {SEALED: sealed}
    for name in named:
        manifest = _manifest(tree, name)
        made[manifest["stage"]] = manifest
    return {
        stage: ChainStep(
            stage,
            manifest,
            tuple(before for before in stages_before(manifest) if before in made),
        )
        for stage, manifest in made.items()
    }


def _is_manifest(name: str) -> bool:
    folder, _, rest = name.partition("/")
    return folder == PROVENANCE and rest.endswith(".json") and "/" not in rest


def _manifest(tree: FileTree, name: str) -> dict[str, Any]:
    return check_manifest(
        read_object(tree, name), where=tree.place(name), hint=f"scion check {tree.name}"
    )


def _behind(stage: str, steps: Mapping[str, ChainStep]) -> tuple[ChainStep, ...]:
    """A stage and all before it, nearest first."""
    found, waiting = dict[str, ChainStep](), [stage]
    while waiting:
        name = waiting.pop(0)
        if name in steps and name not in found:
            found[name] = steps[name]
            waiting += steps[name].inputs
    return tuple(found.values())


def _table(tree: FileTree, name: str) -> dict[str, Mapping[str, Any]]:
    """The rows of a table of tensors by name; what is no row is left out. Empty where none is."""
    rows = read_object(tree, name) if name in tree.files else {}
    return {key: row for key, row in rows.items() if isinstance(row, dict)}


def _tensor(
    tree: FileTree, name: str, row: Mapping[str, Any], steps: Mapping[str, ChainStep]
) -> Explanation:
    origin = row.get("origin")
    origin = cast("dict[str, Any]", origin) if isinstance(origin, dict) else {}
    kind, begun = origin.get("from", "unknown"), origin.get("sha256")
    lines = [
        f"{row.get('dtype')} {row.get('shape')} in {row.get('file')}",
        f"sha256 {row.get('sha256')}",
        f"origin {kind}" + (f", of sha256 {begun}" if begun else ""),
    ]
    owner = "fetch_donor" if kind in ("donor", "trained") else "fetch_source"
    table = f"{TABLES}/{owner}.json"
    rows = _table(tree, table)
    same = [key for key, each in rows.items() if begun and each.get("sha256") == begun]
    best = [key for key in same if key.endswith(name.rpartition(".")[0])] or same
    lines += [f"there it is {key}" for key in best[:3]]
    made_by = {
        "source": "fix_keys",
        "donor": "fetch_donor",
        "trained": "heal_mtp",
        "quantized": "quantize_mtp" if in_head(name) else "quantize_nvfp4",
    }.get(str(kind), SEALED)
    lines += _place(steps.get(owner))
    return Explanation(name, tuple(lines), made_by, _behind(made_by, steps))


def _place(step: ChainStep | None) -> list[str]:
    """Where the checkpoint behind a tensor was fetched from."""
    location = step.manifest["facts"].get("location") if step else None
    return [f"{step.stage}: {location}"] if step and location else []


def _makers(steps: Mapping[str, ChainStep]) -> dict[str, str]:
    """The stage that made each file of the release, but for those of the seal."""
    manifests = {stage: step.manifest for stage, step in steps.items() if stage != SEALED}
    return {placed: stage for placed, _, stage in stages_files(manifests)}


def _file(tree: FileTree, name: str, steps: Mapping[str, ChainStep]) -> Explanation:
    made_by = _makers(steps).get(name, SEALED)
    entry = steps[SEALED].manifest["files"].get(name)
    lines = [f"{entry['size']} bytes", f"sha256 {entry['sha256']}"] if entry else ["not listed"]
    return Explanation(name, tuple(lines), made_by, _behind(made_by, steps))


def _numbers(tree: FileTree, told: str, steps: Mapping[str, ChainStep]) -> Iterator[Explanation]:
    """Every recorded value that is told so."""
    percent = told.strip().endswith("%")
    text = told.strip().rstrip("%×").strip().replace(",", "").replace("\N{MINUS SIGN}", "-")
    try:
        wanted = float(text)
    except ValueError:
        return
    digits = len(text.partition(".")[2])
    makers, count = _makers(steps), 0
    for name in sorted(tree.files):
        if not (name.startswith(f"{RESULTS}/") and name.endswith(".json")):
            continue
        try:
            content = parse_json(read_whole(tree, name))
        except (OSError, EOFError, ValueError) as error:
            raise unreadable(tree.place(name), error, hint=f"scion check {tree.name}") from error
        for path, value in _leaves(content):
            if wanted != round(100 * value if percent else value, digits):
                continue
            count += 1
            if count > _MATCHES:
                continue
            made_by = makers.get(name, RENDERED)
            lines = (f"{value!r} in {name}", f"at {path}")
            yield Explanation(told, lines, made_by, _behind(made_by, steps))
    if count > _MATCHES:
        lines = (f"and {count - _MATCHES} values more are told so: give more digits, or the unit",)
        yield Explanation(told, lines, RENDERED, ())


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a JSON value, each with its path."""
    if isinstance(content, dict):
        for key, value in cast("dict[str, Any]", content).items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(content, list):
        for number, value in enumerate(cast("list[Any]", content)):
            yield from _leaves(value, f"{path}[{number}]")
    elif isinstance(content, int | float) and not isinstance(content, bool):
        # An integer may have more digits than any number that is told.
        with suppress(OverflowError):
            yield path, float(content)
