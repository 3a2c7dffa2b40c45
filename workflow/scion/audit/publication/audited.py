"""What may be published: a sealed release that its own audit does not refute."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from scion.artifacts.file_tree import FolderTree, read_whole
from scion.artifacts.manifest import MANIFEST, check_manifest
from scion.artifacts.release_layout import SIGNATURE, weights_stage
from scion.audit.attested import Signer
from scion.audit.audit import ReleaseAudit, audit
from scion.checkpoint.shards import parse_object
from scion.common.errors import ScionError
from scion.common.files import read_regular
from scion.report.verdict import read_verdict

GIT_BYTES = 10_000_000
"""Files up to this, shards apart, may be kept by git itself; the hub keeps others apart from it."""


@dataclass(frozen=True)
class AuditedRelease:
    """A release as its audit has seen it.

    Attributes:
        folder: Where it lies.
        manifest: That of its seal.
        digests: SHA-256 by name of every file that is published.
        small: The content of the files that git may keep, as it was audited.
    """

    folder: Path
    manifest: Mapping[str, Any]
    digests: Mapping[str, str]
    small: Mapping[str, bytes]

    @property
    def root(self) -> str:
        """The root digest of the seal."""
        return self.manifest["root"]

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return len(self.small[name]) if name in self.small else self.manifest["files"][name]["size"]

    @property
    def summary(self) -> str:
        """The commit's first line, the same for the same release."""
        return f"Release {self.root.removeprefix('sha256:')[:12]}, sealed by Scion"

    @property
    def tag(self) -> str:
        """The name that the commit gets: of a release there is one."""
        return f"root-{self.root.removeprefix('sha256:')[:12]}"

    @property
    def description(self) -> str:
        """What the commit's message says beyond its first line."""
        lines = [
            f"root {self.root}",
            f"weights {_weights(self.manifest)}",
            f"{len(self.digests)} files; verify: scion audit hf://OWNER/NAME --root {self.root}",
        ]
        return "\n".join(lines)


def audited_release(
    folder: Path, *, signer: Signer | None = None, undecided: bool = False
) -> AuditedRelease:
    """Audit a release and take hold of what was audited.

    Args:
        folder: The release.
        signer: Who has to have signed it; None where nobody was named.
        undecided: Whether a release will do that was measured too little for a verdict.

    Raises:
        ScionError: There is no release, it has no seal, its audit refutes a part of it, or the
            verdict that it holds is against it.
    """
    found = audit(str(folder), signer=signer)
    _refuse_refuted(found, folder)
    tree = FolderTree(folder)
    raw = read_whole(tree, MANIFEST) if MANIFEST in tree.files else b"{}"
    manifest = parse_object(raw, where=str(folder / MANIFEST), hint=_again(folder))
    if found.root is None:
        raise ScionError(
            "a folder without a seal is not published: nothing says that it is whole",
            where=folder,
            expected=f"a release with a {MANIFEST} of seal_release",
            found=", ".join(sorted(tree.files)[:6]) or "an empty folder",
            hint="make the release by the workflow; results/RELEASE/release is what is published",
        )
    if check_manifest(manifest, where=folder / MANIFEST, hint=_again(folder))["root"] != found.root:
        raise _changed(folder / MANIFEST, found.root, "another manifest")
    _refuse_verdict(folder, undecided=undecided)
    digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    small = {MANIFEST: raw}
    if (folder / SIGNATURE).is_file():
        small[SIGNATURE] = read_regular(folder / SIGNATURE, limit=GIT_BYTES)
    digests |= {name: sha256(content).hexdigest() for name, content in small.items()}
    for name, entry in manifest["files"].items():
        if entry["size"] <= GIT_BYTES and not name.endswith(".safetensors"):
            small[name] = b"".join(tree.chunks(name))
            if sha256(small[name]).hexdigest() != entry["sha256"]:
                raise _changed(folder / name, entry["sha256"], "other content")
    return AuditedRelease(folder, manifest, digests, small)


def require_as_audited(release: AuditedRelease, name: str, digest: str) -> None:
    """Refuse a large file whose uploaded content is not what was audited.

    Raises:
        ScionError: It has changed since.
    """
    if digest != release.digests[name]:
        raise _changed(release.folder / name, release.digests[name], digest)


def _refuse_refuted(found: ReleaseAudit, folder: Path) -> None:
    refuted = [verdict for verdict in found.verdicts if verdict.faults]
    if refuted:
        first = refuted[0].faults[0]
        count = sum(len(verdict.faults) for verdict in refuted)
        raise ScionError(
            f"the audit refutes the release ({', '.join(each.part for each in refuted)}), "
            "and nothing was published",
            where=f"{folder}: {first.subject}",
            expected=first.expected or first.problem,
            found=f"{first.found or first.problem}{f', and {count - 1} more' * (count > 1)}",
            hint=f"scion audit {folder}",
        )


def _refuse_verdict(folder: Path, *, undecided: bool) -> None:
    """Refuse what was judged and not accepted; what was not judged is not refused for that."""
    verdict = read_verdict(folder)
    taken = {"accept", "undecided"} if undecided else {"accept"}
    if verdict is None or verdict.outcome in taken:
        return
    raise ScionError(
        f"the verdict on the release is {verdict.outcome}, and nothing was published",
        where=folder,
        expected="accept: the release may stand for its bf16 source",
        found="; ".join(verdict.reasons) or verdict.outcome,
        hint="measure more of it, as the verdict says, or publish it all the same: --undecided"
        if verdict.outcome == "undecided"
        else "see verdict.md; another recipe, or modules kept in bf16, lose less",
    )


def _weights(manifest: Mapping[str, Any]) -> str:
    """The content digest of the release's checkpoint."""
    made = manifest["made_from"].values()
    contents = {entry["stage"]: entry["content"] for entry in made if "stage" in entry}
    return contents[weights_stage(contents)]


def _changed(where: Path, expected: object, found: object) -> ScionError:
    return ScionError(
        "a file changed after it was audited, and nothing was published",
        where=where,
        expected=expected,
        found=found,
        hint="run again once nobody writes to the folder",
    )


def _again(folder: Path) -> str:
    return f"scion check {folder}"
