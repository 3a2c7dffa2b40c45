"""What a stand-in for the Hugging Face hub holds: repositories with commits and pull requests."""

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAIN = "main"


class OnDisk:
    """A file that is not held in memory.

    Args:
        path: Where it lies.
        digest: Its SHA-256; None invents one, for hashing would take minutes.
    """

    LEAST_BYTES = 64 << 20

    def __init__(self, path: Path, digest: str | None = None) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.sha256 = digest or sha256(f"{path.name} {self.size}".encode())

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, wanted: slice) -> bytes:
        with self.path.open("rb") as file:
            file.seek(wanted.start)
            return file.read(wanted.stop - wanted.start)


Content = bytes | OnDisk


def is_large(name: str) -> bool:
    """Whether a repository keeps a file apart from git, by Xet or Git LFS."""
    return name.endswith((".safetensors", ".png", ".parquet"))


def content(path: Path, digest: str | None = None) -> Content:
    """What a file holds."""
    if path.stat().st_size < OnDisk.LEAST_BYTES:
        return path.read_bytes()
    return OnDisk(path, digest)


def sha256(data: Content) -> str:
    """Hex SHA-256."""
    return data.sha256 if isinstance(data, OnDisk) else hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    """Hex hash of git's blob object."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(data: Content) -> bytes:
    """What git has of a file that is kept apart."""
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\n"
    return f"{text}size {len(data)}\n".encode()


class ParentMovedError(Exception):
    """A commit names another parent than the branch's last commit."""


@dataclass
class PullRequest:
    """A pull request: a branch `refs/pr/NUMBER` that waits to be merged.

    Attributes:
        number: From 1.
        title: First line of its first commit's message.
        status: `draft`, `open`, `closed` or `merged`.
    """

    number: int
    title: str
    status: str = "open"

    @property
    def revision(self) -> str:
        """Its branch."""
        return f"refs/pr/{self.number}"


@dataclass
class Repository:
    """Files by commit, and names of commits.

    Attributes:
        files: Those of the last commit of `main`, by name.
        history: The files of each commit.
        revisions: Commits by branch, tag and their own hash.
        messages: Of each commit but the first, summary and description.
        pull_requests: In the order of their numbers.
        token: Who has it may see the repository; None lets everybody.
        gated: Whether others are told that it exists.
    """

    files: dict[str, Content]
    history: dict[str, dict[str, Content]] = field(default_factory=dict[str, dict[str, Content]])
    revisions: dict[str, str] = field(default_factory=dict[str, str])
    messages: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    pull_requests: list[PullRequest] = field(default_factory=list[PullRequest])
    token: str | None = None
    gated: bool = False

    def __post_init__(self) -> None:
        self._name(MAIN, self.files, parent="")

    @classmethod
    def of(cls, folder: Path) -> "Repository":
        """The files of a folder, as one commit."""
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return cls({str(path.relative_to(folder)): content(path) for path in paths})

    @property
    def commit(self) -> str:
        """The last commit of `main`."""
        return self.revisions[MAIN]

    def add_commit(
        self,
        revision: str,
        *,
        added: Mapping[str, Content],
        removed: set[str],
        parent: str | None,
        message: tuple[str, str],
        as_pull_request: bool,
    ) -> tuple[str, PullRequest | None]:
        """Commit; nothing changes if that is refused.

        Args:
            revision: The branch.
            added: New content by name.
            removed: Names that are no more.
            parent: The commit that the client has looked at. A pull request begins there; on a
                branch it has to be the last.
            message: Summary and description.
            as_pull_request: Whether to commit to the branch of a new pull request.

        Raises:
            ParentMovedError: The branch has another last commit.
        """
        last = self.revisions[revision]
        if parent is not None and parent != last and not as_pull_request:
            raise ParentMovedError(f"{revision} is at {last}")
        opened = None
        if as_pull_request:
            opened = PullRequest(len(self.pull_requests) + 1, message[0])
            self.pull_requests.append(opened)
            revision, last = opened.revision, parent or last
        kept = {name: data for name, data in self.history[last].items() if name not in removed}
        commit = self._name(revision, {**kept, **added}, parent=last + "\n".join(message))
        self.messages[commit] = message
        if revision == MAIN:
            self.files = self.history[commit]
        return commit, opened

    def ignored(self, name: str) -> bool:
        """Whether `.gitignore` has a name; patterns with `!` or `/` are not understood."""
        patterns = self.files.get(".gitignore", b"")
        lines = patterns[0 : len(patterns)].decode().split()
        return any(fnmatch.fnmatch(part, line) for part in name.split("/") for line in lines)

    def siblings(self, commit: str) -> list[dict[str, Any]]:
        """The listing of all files of a commit, as `?blobs=true` asks for it."""
        listing: list[dict[str, Any]] = []
        for name, data in sorted(self.history[commit].items()):
            blob = data if isinstance(data, bytes) and not is_large(name) else pointer(data)
            item: dict[str, Any] = {
                "rfilename": name,
                "size": len(data),
                "blobId": git_blob(blob),
            }
            if is_large(name):
                item["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": len(blob)}
            listing.append(item)
        return listing

    def _name(self, revision: str, files: dict[str, Content], *, parent: str) -> str:
        parts = [f"{name} {sha256(data)}" for name, data in files.items()]
        commit = hashlib.sha1("\n".join([parent, *parts]).encode()).hexdigest()
        self.history[commit] = files
        self.revisions |= {revision: commit, commit: commit}
        return commit
