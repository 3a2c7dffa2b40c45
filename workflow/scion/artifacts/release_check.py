"""Check a release folder as its reader has it: files against manifest, and the chain of digests."""

from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, manifest_digests
from scion.checkpoint.shards import read_json
from scion.common.digest import digest_json

SEALED = "seal_release"
RELEASE = "release"
CARD = "README.md"
PROVENANCE = "provenance"
# What was measured: the records, and the files of lines beside them.
RESULTS = f"{PROVENANCE}/results"


def check_release(folder: Path) -> tuple[Artifact, list[str]]:
    """Hash every file of a sealed release and follow its provenance.

    Args:
        folder: The release folder.

    Returns:
        The sealed artifact, and one line for each thing that does not hold: a file that is
        missing, changed or not listed, a manifest whose digest is not that of its content, a stage
        whose input has no manifest here, weights that are not those the card names.

    Raises:
        ScionError: No manifest there, or an edited one.
    """
    sealed = Artifact.open(folder)
    problems = sealed.check()
    manifests = {
        path.stem: read_json(path) for path in sorted((folder / PROVENANCE).glob("*.json"))
    }
    for stage, manifest in manifests.items():
        problems += [
            f"{PROVENANCE}/{stage}.json: its {name} digest is not of its content"
            for name, digest in manifest_digests(manifest).items()
            if manifest.get(name) != digest
        ]
    made = [_named(manifest) for manifest in manifests.values()]
    for stage, manifest in {**manifests, SEALED: sealed.manifest}.items():
        problems += [
            f"{stage}: its input {name} ({wanted['content']}) has no manifest in {PROVENANCE}/"
            for name, wanted in _artifacts(manifest).items()
            if not any(wanted.items() <= given.items() for given in made)
        ]
    problems += _weights(sealed, manifests)
    return sealed, problems


def _named(manifest: dict[str, Any]) -> dict[str, str]:
    """All that the manifests of later stages may name an artifact by."""
    names = {name: manifest.get(name, "") for name in ("stage", "content", "root")}
    return names | {"facts": digest_json(manifest.get("facts"))}


def _artifacts(manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What names each artifact that a manifest was made from; no plain files."""
    return {name: made for name, made in manifest["made_from"].items() if "content" in made}


def _weights(sealed: Artifact, manifests: dict[str, Any]) -> list[str]:
    """Whether the files are those of the grafted checkpoint, and the card says so."""
    grafted = manifests.get("graft_mtp")
    if grafted is None:
        return [f"{PROVENANCE}/graft_mtp.json: missing"]
    problems = [
        f"{name}: not the file that graft_mtp wrote"
        for name, entry in grafted["files"].items()
        if sealed.files.get(name) != entry
    ]
    if grafted["content"] not in (sealed.folder / CARD).read_text():
        problems.append(f"{CARD}: does not name the weights' digest {grafted['content']}")
    return problems
