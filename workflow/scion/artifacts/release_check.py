"""Check a release as its reader has it: files, tensors, card, and the chain of manifests.

It may lie in a folder or on the hub: a `FileTree` says what there is and reads it.

All that the folder says twice has to agree. Somebody who writes every digest anew, in every place,
can still make a release of their own: whose it is, only a signature could say.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from scion.artifacts.file_check import Watch, check_files
from scion.artifacts.file_tree import FileTree, read_object, read_whole
from scion.artifacts.manifest import DOWNLOAD_ANEW, MANIFEST, check_manifest
from scion.artifacts.release_chain import chain_problems
from scion.artifacts.release_layout import (
    CARD,
    PROVENANCE,
    RENDERED,
    SEALED,
    SUMS,
    Manifest,
    attested_files,
    entry_of,
    sealed_stages,
    stages_files,
    sums,
)
from scion.artifacts.release_tensors import tensor_problems
from scion.artifacts.software import FACT, Software
from scion.common.errors import ScionError
from scion.common.files import to_json
from scion.common.text import printable

_STAGE = re.compile(rf"{PROVENANCE}/(\w+)\.json")
# A row of the card's table of steps.
_STEP = re.compile(r"^\| (\w+) \| `(sha256:[0-9a-f]{64})` \|$", re.MULTILINE)


def check_release(tree: FileTree, *, watch: Watch | None = None) -> tuple[Manifest, list[str]]:
    """Read every file of a sealed release and follow its provenance.

    Args:
        tree: The files of the release.
        watch: Sees every chunk that is read.

    Returns:
        The manifest of the seal, and a line for each thing that does not hold, which begins with
        the file: one that is missing, changed, not listed or no file; a manifest that does not
        agree with itself or with another; a file that is not the one its stage made; a tensor that
        is not the one of the table, or whose origin is another; a card that names other digests.

    Raises:
        ScionError: No manifest there, or an edited one; or the hub can't be read.
    """
    sealed = _read_manifest(tree, MANIFEST)
    checked = check_files(tree, sealed["files"], besides=MANIFEST, watch=watch)
    problems = checked.problems
    problems += _seal_problems(tree, sealed)
    manifests, unusable = _provenance(tree, sealed)
    problems += unusable
    problems += chain_problems(manifests, sealed)
    problems += _layout_problems(sealed, manifests)
    # What is damaged is told already; these look into files.
    damaged = {line.split(": ")[0] for line in problems}
    problems += tensor_problems(tree, sealed["files"], checked, manifests, damaged=damaged)
    if CARD not in damaged:
        problems += _card_problems(tree, manifests)
    return sealed, list(dict.fromkeys(problems))


def _read_manifest(tree: FileTree, name: str) -> Manifest:
    content = read_object(tree, name)
    return check_manifest(content, where=tree.place(name), hint=DOWNLOAD_ANEW)


def _seal_problems(tree: FileTree, sealed: Manifest) -> Iterator[str]:
    """Whether the release's manifest is that of a seal, written as it is written."""
    if sealed["stage"] != SEALED:
        yield f"{MANIFEST}: is of the stage {printable(sealed['stage'])}, not of {SEALED}"
    if read_whole(tree, MANIFEST) != to_json(sealed):
        yield f"{MANIFEST}: is not written as {SEALED} writes it"


def _provenance(tree: FileTree, sealed: Manifest) -> tuple[dict[str, Manifest], list[str]]:
    """The stages' manifests, in the order in which the seal names them, and what can't be used."""
    manifests: dict[str, Manifest] = {}
    problems: list[str] = []
    named = (f"{PROVENANCE}/{stage}.json" for stage in sealed_stages(sealed))
    for name in filter(_STAGE.fullmatch, dict.fromkeys((*named, *sealed["files"]))):
        stage = Path(name).stem
        try:
            manifests[stage] = _read_manifest(tree, name)
        except ScionError as error:
            found = f"expected {error.expected}, found {error.found}"
            problems.append(f"{name}: {error.problem}: {printable(found)}")
    return manifests, problems


def _layout_problems(sealed: Manifest, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Files that the seal lists and no stage made so, and the other way round."""
    listed = sealed["files"]
    expected = {name: (entry, stage) for name, entry, stage in stages_files(manifests)}
    expected |= {name: (entry, SEALED) for name, entry in attested_files(sealed)}
    expected[SUMS] = (entry_of(sums(listed)), SEALED)
    for name in {**listed, **expected}:
        entry, stage = expected.get(name, ({}, None))
        if name not in listed:
            yield f"{name}: missing: {stage} made it"
        elif stage is not None and listed[name] != entry:
            yield f"{printable(name)}: not the one that {stage} made"
        # A manifest that can't be used is told already.
        elif stage is None and _STAGE.fullmatch(name) is None:
            yield f"{printable(name)}: no stage made it"


def _card_problems(tree: FileTree, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Whether the card names the digests of the stages, and the Scion that rendered it."""
    try:
        text = read_whole(tree, CARD).decode()
    except (OSError, EOFError, ValueError) as error:
        yield f"{CARD}: can't be read as text: {printable(error)}"
        return
    steps = dict(_STEP.findall(text))
    for stage, manifest in manifests.items():
        if stage != RENDERED and steps.get(stage) != manifest["content"]:
            yield f"{CARD}: does not name the content {manifest['content']} of {stage}"
    if RENDERED in manifests:
        yield from _software_problems(text, manifests[RENDERED])
    for stage in steps.keys() - manifests.keys():
        yield f"{CARD}: names a digest of {stage}, which has no manifest in {PROVENANCE}/"


def _software_problems(text: str, rendered: Manifest) -> Iterator[str]:
    """Whether the card names the Scion that its manifest names."""
    try:
        software = Software(**rendered["facts"][FACT])
    except (KeyError, TypeError):
        yield f"{PROVENANCE}/{RENDERED}.json: its fact {FACT} does not say which Scion made it"
        return
    commit = f"commit `{software.commit}`" if software.commit else None
    for told in (f"Scion {software.version}", commit, software.install):
        if told is not None and told not in text:
            yield f"{CARD}: does not say {printable(told)}, as {RENDERED} does"
