"""What a finished run made, in a few lines for the terminal."""

import os
from collections.abc import Sequence
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.artifacts.manifest import MANIFEST, find_manifest
from scion.artifacts.release_layout import (
    CARD,
    COMPARED,
    PROVENANCE,
    RELEASE,
    RENDERED,
    RESULTS,
    SEALED,
)
from scion.common.errors import ScionError
from scion.evaluation.verdict.records import RECORD as JUDGED
from scion.report.measurements import MEASUREMENTS, MeasuredStage


def summary(results: Path, *, config: Path | None = None) -> list[str]:
    """Lines that name the release folder and its digests, and tell what was measured.

    A number's 95 % interval stands in brackets behind it.

    Args:
        results: The folder of a release's artifacts, such as `results/<release>`.
        config: The release's config file, to name in errors.

    Raises:
        ScionError: The release is not finished, or a record in it is not what was sealed.
    """
    release = _open(results, config)
    lines = [
        f"release:     {release.folder}",
        f"card:        {release.folder / CARD}",
        f"root:        {release.root}",
        f"weights:     {release.facts.get('weights')}",
    ]
    for row in MEASUREMENTS.values():
        # Out of the release: what another configuration left beside it is old.
        if f"{RESULTS}/{row.record.name}" in release.files:
            lines += _measured(release, row)
    if note := _note(release):
        lines.append(f"note:        {note}")
    return lines


def family_summary(results: Sequence[Path], *, config: Path | None = None) -> list[str]:
    """The releases of a family, a line each, and how they compare.

    Args:
        results: The folders of the releases' artifacts.
        config: The family's config file, to name in errors.

    Raises:
        ScionError: As `summary`.
    """
    releases = [_open(folder, config) for folder in results]
    lines = [f"release:     {release.folder}, root {release.root[:19]}…" for release in releases]
    row = MEASUREMENTS[COMPARED]
    # A release that was made alone since says nothing of the others.
    compared = [each for each in releases if f"{RESULTS}/{row.record.name}" in each.files]
    lines += [line for release in compared[:1] for line in _measured(release, row)]
    judged = MEASUREMENTS[JUDGED.stage]
    for release in releases:
        if f"{RESULTS}/{judged.record.name}" in release.files:
            first, *against = _measured(release, judged)
            lines += [f"{first} ({release.folder})", *against]
    notes = dict.fromkeys(note for release in releases if (note := _note(release)))
    return lines + [f"note:        {note}" for note in notes]


def _open(results: Path, config: Path | None) -> Artifact:
    """The sealed release of a folder of results."""
    if not os.path.lexists(results / RELEASE / MANIFEST):
        raise _unfinished(results, config)
    release = Artifact.open(results / RELEASE)
    if release.stage != SEALED:
        raise _damaged(release, MANIFEST, f"a manifest of {SEALED}", f"one of {release.stage}")
    return release


def _note(release: Artifact) -> str | None:
    """What the card says beside scores that prove the harness rather than the model."""
    rendered = find_manifest(release.folder / PROVENANCE / f"{RENDERED}.json") or {}
    card = rendered.get("settings", {}).get("card")
    return card.get("harness_only_note") if isinstance(card, dict) else None


def _measured(release: Artifact, row: MeasuredStage) -> list[str]:
    name = f"{RESULTS}/{row.record.name}"
    record = release.read_json(name)
    try:
        return row.summary(record)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        found = f"{type(error).__name__}: {error}"
        raise _damaged(release, name, f"a record as {row.record.stage} writes it", found) from error


def _damaged(release: Artifact, name: str, expected: str, found: str) -> ScionError:
    return ScionError(
        "the release can't be summed up",
        where=release.folder / name,
        expected=expected,
        found=found,
        hint=f"see what else is wrong: scion check {release.folder}",
    )


def _unfinished(results: Path, config: Path | None) -> ScionError:
    made = sorted(path.stem for path in results.glob("*.json"))
    others = sorted(
        path.parent.parent.name for path in results.parent.glob(f"*/{RELEASE}/{MANIFEST}")
    )
    found = f"stages that have ended: {', '.join(made)}" if made else "no stage has ended"
    if not results.is_dir():
        found = f"no such folder; finished releases there: {', '.join(others) or 'none'}"
    run = "snakemake --cores all" + ("" if config is None else f" --configfile {config}")
    return ScionError(
        "the release is not made yet",
        where=results / RELEASE,
        expected="a release that a run of the workflow has sealed",
        found=found,
        hint=f"run it to its end: {run}; or name another release's config file, or --results",
    )
