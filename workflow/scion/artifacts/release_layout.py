"""What a sealed release holds: `seal_release` puts it together so, `scion check` holds it to that.

the files of graft_mtp, or of heal_mtp   the checkpoint
  or quantize_mtp where there are these
README.md, PROVENANCE.md, pictures/      the files of render_card
provenance/<stage>.json                  the manifest of every stage
provenance/results/                      what was measured: records, and files of lines
provenance/tensors/<stage>.json          the tensor table of every other checkpoint on the way
attestations/, ro-crate-metadata.json,   where it is attested: what the seal says of all of the
  reproduce/                               above in the forms of others
SHA256SUMS                               for readers without Scion
manifest.json                            that of the seal, over all of the others
model.sig                                beside a release that was signed: over all of the others
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scion.common.digest import digest_bytes
from scion.common.files import to_json

SEALED = "seal_release"
RELEASE = "release"
GRAFTED, HEALED, HEAD_QUANTIZED = "graft_mtp", "heal_mtp", "quantize_mtp"
RENDERED = "render_card"
COMPARED = "compare_family"
CARD = "README.md"
PICTURES = "pictures"
SUMS = "SHA256SUMS"
TENSORS = "tensors.json"
PROVENANCE = "provenance"
RESULTS = f"{PROVENANCE}/results"
TABLES = f"{PROVENANCE}/tensors"
STATEMENT = "attestations/provenance.intoto.json"
BOM = "attestations/bom.cdx.json"
CRATE = "ro-crate-metadata.json"
REPRODUCTION = "reproduce/reproduce.json"
ATTESTING_FILES = (STATEMENT, BOM, CRATE, REPRODUCTION)
"""What is derived from manifests, in the order of `scion.report.attestation.attestations`."""
WORKFLOW = "reproduce/Snakefile"
"""The workflow's entry, which an RO-Crate has to hold; the seal's input of the same name."""
SIGNATURE, SIGNED = "model.sig", "sign_release"
_KINDS = (".json", ".jsonl")

Manifest = Mapping[str, Any]
Entry = Mapping[str, Any]


def table_file(stage: str) -> str:
    """Where a release has the tensor table of a stage before the last that changed its tensors."""
    return f"{TABLES}/{stage}.json"


def weights_stage(manifests: Iterable[str]) -> str:
    """The stage, of those of a release, whose artifact is the release's checkpoint."""
    stages = set(manifests)
    return next((stage for stage in (HEAD_QUANTIZED, HEALED) if stage in stages), GRAFTED)


def placed_files(stage: str, manifest: Manifest) -> dict[str, str]:
    """What a release holds of a stage that made neither its checkpoint nor its card.

    Returns:
        By the file's name there, its name in the release.
    """
    if TENSORS in manifest["files"]:
        return {TENSORS: table_file(stage)}
    return {name: f"{RESULTS}/{name}" for name in manifest["files"] if name.endswith(_KINDS)}


def sums(files: Mapping[str, Entry]) -> bytes:
    """The text of SHA256SUMS: of all files but itself and the tensor table, which come later."""
    lines = (
        f"{entry['sha256']}  {name}\n"
        for name, entry in sorted(files.items())
        if name not in (SUMS, TENSORS)
    )
    return "".join(lines).encode()


def stages_files(manifests: Mapping[str, Manifest]) -> Iterator[tuple[str, Entry, str]]:
    """What a release holds of each stage: name, `size` and `sha256` of every file, and the stage.

    Args:
        manifests: By stage, the seal's own not among them.
    """
    for stage, manifest in manifests.items():
        if stage in (weights_stage(manifests), RENDERED):
            yield from ((name, entry, stage) for name, entry in manifest["files"].items())
        else:
            for name, placed in placed_files(stage, manifest).items():
                yield placed, manifest["files"][name], stage
        yield f"{PROVENANCE}/{stage}.json", entry_of(to_json(manifest)), stage


def sealed_stages(sealed: Manifest) -> list[str]:
    """The stages whose manifests a release holds, in the order in which its seal names them."""
    return [name for name, made in sealed["made_from"].items() if "stage" in made]


def stages_before(manifest: Manifest) -> list[str]:
    """The stages that an artifact was made from, each once."""
    named = (made["stage"] for made in manifest["made_from"].values() if "stage" in made)
    return list(dict.fromkeys(named))


def is_attested(sealed: Manifest) -> bool:
    """Whether a seal was asked for attestations."""
    settings = sealed.get("settings")
    return isinstance(settings, dict) and "config" in settings


def attested_files(sealed: Manifest) -> Iterator[tuple[str, Entry]]:
    """What a seal has written of attestations: the name, and size and SHA-256 as it lists them.

    Args:
        sealed: Its manifest.
    """
    if not is_attested(sealed):
        return
    listed = sealed["files"]
    yield from ((name, listed.get(name, {})) for name in ATTESTING_FILES)
    read = sealed["made_from"].get(WORKFLOW, {})
    yield WORKFLOW, {**listed.get(WORKFLOW, {}), "sha256": read.get("sha256")}


def entry_of(content: bytes) -> Entry:
    """`size` and `sha256` of a file that holds this."""
    return {"size": len(content), "sha256": digest_bytes(content)}
