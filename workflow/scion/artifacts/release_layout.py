"""What a sealed release holds: `seal_release` puts it together so, `scion check` holds it to that.

the files of graft_mtp                   the checkpoint
README.md, pictures/                     the files of render_card
provenance/<stage>.json                  the manifest of every stage
provenance/results/                      what was measured: records, and files of lines
SHA256SUMS                               for readers without Scion
manifest.json                            that of the seal, over all of the others
"""

from collections.abc import Iterator, Mapping
from typing import Any

from scion.common.digest import digest_bytes
from scion.common.files import to_json

SEALED = "seal_release"
RELEASE = "release"
WEIGHTS = "graft_mtp"
RENDERED = "render_card"
CARD = "README.md"
PICTURES = "pictures"
SUMS = "SHA256SUMS"
TENSORS = "tensors.json"
PROVENANCE = "provenance"
RESULTS = f"{PROVENANCE}/results"
_KINDS = (".json", ".jsonl")

Manifest = Mapping[str, Any]
Entry = Mapping[str, Any]


def result_files(manifest: Manifest) -> list[str]:
    """The result files of a stage that measures; a stage with weights has none."""
    if TENSORS in manifest["files"]:
        return []
    return [name for name in manifest["files"] if name.endswith(_KINDS)]


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
        if stage in (WEIGHTS, RENDERED):
            yield from ((name, entry, stage) for name, entry in manifest["files"].items())
        else:
            for name in result_files(manifest):
                yield f"{RESULTS}/{name}", manifest["files"][name], stage
        yield f"{PROVENANCE}/{stage}.json", entry_of(to_json(manifest)), stage


def entry_of(content: bytes) -> Entry:
    """`size` and `sha256` of a file that holds this."""
    return {"size": len(content), "sha256": digest_bytes(content)}
