"""What a repository has of a release already, and what publishing it would move."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from scion.artifacts.file_tree import is_added
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_layout import SIGNATURE
from scion.audit.publication.audited import AuditedRelease
from scion.checkpoint.hub.client import RemoteFile
from scion.common.digest import git_blob
from scion.common.text import printable, size


@dataclass(frozen=True)
class Changes:
    """The way from a repository's files to a release's, by name.

    Attributes:
        added: Files that it lacks.
        changed: Files that it has with another content.
        removed: Files that the release lacks.
        strange: Of those that are changed or removed, the ones that no release there has listed:
            whose they are is not known here.
        unchanged: Files that it has already.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    strange: tuple[str, ...]
    unchanged: tuple[str, ...]

    @classmethod
    def between(
        cls, release: AuditedRelease, remote: Mapping[str, RemoteFile], earlier: Set[str] | None
    ) -> "Changes":
        """Compare.

        Args:
            release: What is published.
            remote: The files of the repository.
            earlier: The names that the release there lists; None where there is none.
        """
        there = {name for name in release.digests if name in remote}
        same = {name for name in there if is_same(release, name, remote[name])}
        # What the hub puts there stays; a signature is of the release that it was made for.
        beyond = {
            name
            for name in remote.keys() - release.digests.keys()
            if name == SIGNATURE or not is_added(name)
        }
        changed = there - same
        own = set[str]() if earlier is None else {*earlier, MANIFEST, SIGNATURE}
        return cls(
            added=tuple(sorted(release.digests.keys() - there)),
            changed=tuple(sorted(changed)),
            removed=tuple(sorted(beyond)),
            strange=tuple(sorted((changed | beyond) - own)),
            unchanged=tuple(sorted(same)),
        )

    @property
    def sent(self) -> tuple[str, ...]:
        """The files that are uploaded."""
        return (*self.added, *self.changed)

    def lines(self, release: AuditedRelease) -> list[str]:
        """What would happen to each file, for people."""
        rows = [("add", name) for name in self.added]
        rows += [("change", name) for name in self.changed]
        told = [f"  {verb:7} {printable(name)}  {size(release.size(name))}" for verb, name in rows]
        told += [f"  {'remove':7} {printable(name)}" for name in self.removed]
        total = size(sum(release.size(name) for name in self.sent))
        return [*told, f"{len(self.sent)} files, {total}, to send; {len(self.unchanged)} there"]


def is_same(release: AuditedRelease, name: str, there: RemoteFile) -> bool:
    """Whether a file of a repository has the content that a release has under its name."""
    if there.size != release.size(name):
        return False
    if there.sha256 is not None:
        return there.sha256 == release.digests[name]
    content = release.small.get(name)
    return content is not None and there.git_blob == git_blob(len(content), [content])
