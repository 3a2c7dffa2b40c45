"""Ways to alter a sealed release, and to write the digests that give it away anew.

`reroot` is what somebody does who edits a file and then mends SHA256SUMS and manifest.json;
`rehash` what somebody does who knows the format: every manifest that names what was altered, and
every later one that names that, with the card between them, and the attestations of it all.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import edit_json, edit_tensor
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.manifest import MANIFEST, manifest_digests
from scion.artifacts.release_chain import chain_of
from scion.artifacts.release_check import check_release
from scion.artifacts.release_layout import (
    CARD,
    GRAFTED,
    PROVENANCE,
    RENDERED,
    SIGNATURE,
    SUMS,
    entry_of,
    is_attested,
    placed_files,
    sealed_stages,
    sums,
    weights_stage,
)
from scion.common.digest import digest_json
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.report.attestation.attestations import write_attestations
from scion.report.attestation.sealed_release import SealedRelease
from scion.report.card.provenance_page import PROVENANCE_PAGE, provenance_page

Change = Callable[[Path], object]

SHARD, HEAD = "model-00002-of-00003.safetensors", "model-mtp.safetensors"
GRAFT = f"{PROVENANCE}/{GRAFTED}.json"
ZEROS = "0" * 64
_MANIFESTS = f"{PROVENANCE}/*.json"


def told(folder: Path) -> list[str]:
    """What the check says of a release; an edited manifest of its own ends the check."""
    try:
        return check_release(FolderTree(folder))[1]
    except ScionError as error:
        return [f"{Path(error.where).relative_to(folder)}: {error.problem}: {error.found}"]


def told_of_altered(release: Path, folder: Path, change: Change) -> list[str]:
    """What the check says of a copy of a release, altered, all digests written anew."""
    shutil.copytree(release, folder)
    change(folder)
    rehash(folder)
    return told(folder)


def named(lines: list[str]) -> set[str]:
    """The files that lines begin with."""
    return {line.split(": ")[0] for line in lines}


def manifest_of(folder: Path, stage: str) -> Path:
    """A stage's manifest in a release."""
    return folder / PROVENANCE / f"{stage}.json"


def edit_manifest(path: Path, change: Callable[[Any], Any]) -> None:
    """Alter a manifest, and write its own digests anew."""
    manifest = json.loads(path.read_text())
    change(manifest)
    write_json(path, manifest | manifest_digests(manifest) | _root(manifest))


def _root(manifest: dict[str, Any]) -> dict[str, str]:
    """The root of a manifest whose other digests are written anew, too."""
    digests = manifest_digests(manifest)
    return {"root": manifest_digests(manifest | {**digests, "root": ""})["root"]}


def reroot(folder: Path, *, mend_sums: bool = True) -> None:
    """Let SHA256SUMS and manifest.json say what lies in the folder."""
    files = {
        str(path.relative_to(folder)): entry_of(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, SIGNATURE)
    }
    if mend_sums:
        (folder / SUMS).write_bytes(sums(files))
        files[SUMS] = entry_of(sums(files))
    edit_manifest(folder / MANIFEST, lambda manifest: manifest.update(files=files))


def rehash(folder: Path) -> None:
    """Write all digests anew: of each stage's files, inputs and manifest, and in the card."""
    paths = {path.stem: path for path in (folder / PROVENANCE).glob("*.json")}
    made = {stage: json.loads(path.read_text()) for stage, path in paths.items()}
    before = {stage: manifest["content"] for stage, manifest in made.items()}
    chain = chain_of(made)
    measured = [stage for stage in made if stage not in chain and stage != RENDERED]
    for stage in (*(stage for stage in chain if stage in made), *measured, RENDERED):
        if stage == RENDERED:
            _mend_card(folder / CARD, before, made)
            _mend_page(folder, made)
        _mend(folder, stage, made)
        write_json(paths[stage], made[stage])

    def mend_seal(manifest: Any) -> None:
        _mend_inputs(manifest, made)
        weights, card = made[weights_stage(made)]["content"], made[RENDERED]["content"]
        manifest["facts"] |= {"weights": weights, "card": card}

    edit_manifest(folder / MANIFEST, mend_seal)
    reroot(folder)
    attest_anew(folder)


def attest_anew(folder: Path) -> None:
    """Derive the attestations of a release, if it has any, from what its manifests say now."""
    sealed = json.loads((folder / MANIFEST).read_text())
    if is_attested(sealed):
        made = {path.stem: json.loads(path.read_text()) for path in folder.glob(_MANIFESTS)}
        manifests = {stage: made[stage] for stage in sealed_stages(sealed)}
        release = SealedRelease.read(sealed, manifests)
        write_attestations(release, folder)
        reroot(folder)


def _mend(folder: Path, stage: str, made: dict[str, Any]) -> None:
    manifest = made[stage]
    own = stage in (weights_stage(made), RENDERED)
    placed = {name: name for name in manifest["files"]} if own else placed_files(stage, manifest)
    for name, place in placed.items():
        if (folder / place).is_file():
            manifest["files"][name] = entry_of((folder / place).read_bytes())
    _mend_inputs(manifest, made)
    manifest |= manifest_digests(manifest)
    manifest |= _root(manifest)


def _mend_inputs(manifest: Any, made: dict[str, Any]) -> None:
    for entry in manifest["made_from"].values():
        source = made.get(entry.get("stage"))
        if source is not None:
            names = {**source, "facts": digest_json(source["facts"])}
            entry.update({key: names[key] for key in entry})


def _mend_page(folder: Path, made: dict[str, Any]) -> None:
    if (folder / PROVENANCE_PAGE).is_file():
        sealed = json.loads((folder / MANIFEST).read_text())
        stages = [stage for stage in sealed_stages(sealed) if stage in made and stage != RENDERED]
        page = provenance_page({stage: made[stage] for stage in stages})
        (folder / PROVENANCE_PAGE).write_text(page)


def _mend_card(card: Path, before: dict[str, str], made: dict[str, Any]) -> None:
    text = card.read_text()
    for stage, content in before.items():
        text = text.replace(content, made[stage]["content"])
    card.write_text(text)


def removed(name: str) -> Change:
    """A file less."""
    return lambda folder: (folder / name).unlink()


def added(name: str, content: bytes = b"x") -> Change:
    """A file more, or another in its place."""
    return lambda folder: (folder / name).write_bytes(content)


def copied(name: str, other: str) -> Change:
    """A file once more, under another's name."""
    return lambda folder: shutil.copyfile(folder / name, folder / other)


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(folder: Path) -> None:
        for each in changes:
            each(folder)

    return change


def replaced(name: str, old: str, new: str) -> Change:
    """Other words in a file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def in_json(name: str, change: Callable[[Any], Any]) -> Change:
    """Another value in a JSON file."""
    return lambda folder: edit_json(folder / name, change)


def in_manifest(name: str, change: Callable[[Any], Any]) -> Change:
    """Another value in a manifest, whose own digests are mended."""
    path = MANIFEST if name == MANIFEST else f"{PROVENANCE}/{name}.json"
    return lambda folder: edit_manifest(folder / path, change)


def doubled(scale: str) -> Change:
    """A number of a tensor twice as large."""

    def change(raw: bytearray) -> None:
        # The exponent of the last bytes, little-endian, of a float of 32 bits.
        raw[2:4] = (int.from_bytes(raw[2:4], "little") + 0x80).to_bytes(2, "little")

    return lambda folder: edit_tensor(folder, scale, change)


def flipped(path: Path, position: int, bit: int) -> None:
    """Another bit in a file; a position below 0 counts from its end."""
    place = position % path.stat().st_size
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
