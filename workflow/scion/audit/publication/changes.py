"""What a repository has of a release already, and what publishing it would move."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from hashlib import sha1

from scion.artifacts.file_tree import is_added
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_layout import SIGNATURE
from scion.audit.publication.audited import AuditedRelease
from scion.checkpoint.hub.client import RemoteFile
from scion.common.text import printable, size


@dataclass(frozen=True)
class Changes:
    """The way from a repository's files to a release's, by name.

    Attributes:
        added: Files that it lacks.
        changed: Files that it has with another content.
        removed: Files of an earlier release that this one lacks.
        strange: Files of nobody's release: whose they are is not known here.
        unchanged: Files that it has already.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    strange: tuple[str, ...]
    unchanged: tuple[str, ...]

    @classmethod
    def between(
        cls, release: AuditedRelease, remote: Mapping[str, RemoteFile], earlier: Set[str]
    ) -> "Changes":
        """Compare.

        Args:
            release: What is published.
            remote: The files of the repository.
            earlier: The names that the release there lists, if there is one.
        """
        there = {name for name in release.digests if name in remote}
        same = {name for name in there if is_same(release, name, remote[name])}
        # What the hub puts there stays; a signature is of the release that it was made for.
        beyond = {
            name
            for name in remote.keys() - release.digests.keys()
            if name == SIGNATURE or not is_added(name)
        }
        own = {*earlier, MANIFEST, SIGNATURE}
        return cls(
            added=tuple(sorted(release.digests.keys() - there)),
            changed=tuple(sorted(there - same)),
            removed=tuple(sorted(beyond & own)),
            strange=tuple(sorted(beyond - own)),
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
        told += [f"  {'remove':7} {printable(name)}" for name in (*self.removed, *self.strange)]
        total = size(sum(release.size(name) for name in self.sent))
        return [*told, f"{len(self.sent)} files, {total}, to send; {len(self.unchanged)} there"]


def is_same(release: AuditedRelease, name: str, there: RemoteFile) -> bool:
    """Whether a file of a repository has the content that a release has under its name."""
    if there.size != release.size(name):
        return False
    if there.sha256 is not None:
        return there.sha256 == release.digests[name]
    content = release.small.get(name)
    return content is not None and there.git_blob == git_blob(content)


def git_blob(content: bytes) -> str:
    """Hex hash of git's blob object, by which git names a file's content."""
    blob = b"blob %d\0" % len(content) + content
    return sha1(blob, usedforsecurity=False).hexdigest()
