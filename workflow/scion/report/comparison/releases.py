"""The releases that `scion compare` reads, and why their digests are the same or not.

Result files and manifests are read as `seal_release` placed them, each held to the digest that the
release's manifest has of it. Weights are compared by those digests; `scion check` hashes them.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.environments import locks_of
from scion.artifacts.manifest import FORMAT, MANIFEST, read_manifest
from scion.artifacts.release_layout import PROVENANCE, RELEASE, RESULTS, SEALED, weights_stage
from scion.common.errors import ScionError
from scion.report.comparison.findings import holds_numbers

# Names that are told one by one, and letters of a setting.
_SHOWN, _LETTERS = 4, 40


@dataclass(frozen=True)
class Release:
    """A sealed release.

    Attributes:
        artifact: The release folder.
        manifests: By stage, that of the sealed release too.
        results: Content by name of the result file.
    """

    artifact: Artifact
    manifests: dict[str, dict[str, Any]]
    results: dict[str, Any]

    @property
    def weights(self) -> str:
        """The content digest of the grafted checkpoint."""
        return self.artifact.facts["weights"]

    @property
    def shards(self) -> dict[str, str]:
        """SHA-256 by name of the files that hold tensors."""
        files = self.artifact.files.items()
        return {name: file["sha256"] for name, file in files if name.endswith(".safetensors")}

    def measures(self, stage: str) -> bool:
        """Whether a stage's files hold measured numbers."""
        files = self.manifests[stage]["files"]
        return any(holds_numbers(self.results[name]) for name in files if name in self.results)


@dataclass(frozen=True)
class Stage:
    """One stage in both releases, and what made its root digests differ; nothing if they do not."""

    name: str
    reasons: tuple[str, ...]


def open_release(folder: Path) -> Release:
    """Read a release's manifests and results.

    Args:
        folder: The release folder, or that of a release's artifacts with `release` in it.

    Raises:
        ScionError: There is no release, it has another form, or a file is not what was sealed.
    """
    places = [place for place in (folder, folder / RELEASE) if os.path.lexists(place / MANIFEST)]
    if not places:
        raise _no_release(
            folder, f"{'no' if folder.is_dir() else 'no folder, hence no'} {MANIFEST}"
        )
    artifact = Artifact.open(places[0])
    if artifact.stage != SEALED or not isinstance(artifact.facts.get("weights"), str):
        raise _no_release(places[0] / MANIFEST, f"one of {artifact.stage}, or without its weights")
    listed = [name for name in artifact.files if name.endswith(".json")]
    manifests = {
        Path(name).stem: _manifest(artifact, name)
        for name in listed
        if str(Path(name).parent) == PROVENANCE
    }
    made = weights_stage(manifests)
    if made not in manifests:
        raise _no_release(places[0] / PROVENANCE, f"no {made}.json, the manifest of the weights")
    results = {
        name.removeprefix(f"{RESULTS}/"): artifact.read_json(name)
        for name in listed
        if name.startswith(f"{RESULTS}/")
    }
    return Release(artifact, {**manifests, SEALED: artifact.manifest}, results)


def _manifest(artifact: Artifact, name: str) -> dict[str, Any]:
    """A stage's manifest, as the release has it."""
    artifact.read_json(name)
    where = artifact.folder / name
    return read_manifest(where, hint=f"see what else is wrong: scion check {artifact.folder}")


def _no_release(where: Path, found: str) -> ScionError:
    return ScionError(
        "there is no release to compare",
        where=where,
        expected=f"a {MANIFEST} of format {FORMAT} and stage {SEALED}, here or in release/",
        found=found,
        hint="name results/X/release of a run that has ended, or a release that was downloaded",
    )


def weights(a: Release, b: Release) -> str:
    """Whether two releases hold the same tensors, in words that start with `the same` if so."""
    made = weights_stage([*a.manifests, *b.manifests])
    if a.weights == b.weights:
        roots = {release.manifests[weights_stage(release.manifests)]["root"] for release in (a, b)}
        return f"the same, {a.weights}{f', made otherwise (see {made})' * (len(roots) - 1)}"
    differing = _differing(a.shards, b.shards)
    if not differing:
        return f"the same bytes in {len(a.shards)} shards, other files beside them (see {made})"
    return f"different in {_some(differing)}"


def stages(a: Release, b: Release) -> list[Stage]:
    """Every stage of either, with the reasons why its root digests differ."""
    return [Stage(name, tuple(_reasons(name, a, b))) for name in {**a.manifests, **b.manifests}]


def _reasons(name: str, a: Release, b: Release) -> Iterator[str]:
    if name not in a.manifests or name not in b.manifests:
        yield "only in A" if name in a.manifests else "only in B"
        return
    first, second = a.manifests[name], b.manifests[name]
    if first["root"] == second["root"]:
        return
    causes = list(_causes(first, second))
    yield from causes
    files = _differing(first["files"], second["files"])
    if causes:
        yield f"other files: {_some(files)}" if files else "the same files"
    elif a.measures(name):
        yield f"made from the same; measured anew: {_some(files)}"
    else:
        yield f"not reproduced, though made from the same: {_some(files) or 'other facts'}"


def _causes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """What of a stage's request differs."""
    if inputs := _differing(a["made_from"], b["made_from"]):
        yield f"made from other {_some(inputs)}"
    if settings := list(_settings(a["settings"], b["settings"])):
        yield f"settings {_some(settings)}"
    if a["code"] != b["code"]:
        yield "other code"
    first, second = a["environment"], b["environment"]
    if first != second:
        same = locks_of(first) == locks_of(second)
        yield "environment installed otherwise, from equal locks" if same else "other environment"


def _settings(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """The dotted keys that differ, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _settings(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (value, other) in enumerate(zip(a, b, strict=True)):
            yield from _settings(value, other, f"{path}.{number}")
    elif a != b:
        yield f"{path}: {_short(a)} in A, {_short(b)} in B"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [key for key in {**a, **b} if a.get(key) != b.get(key)]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
