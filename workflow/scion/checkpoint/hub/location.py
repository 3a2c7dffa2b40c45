"""Where a checkpoint or a data set is: a local path, or a repository of the Hugging Face hub.

    resources/pico/pico-agent                                            a path
    hf://owner/name@0123456789abcdef0123456789abcdef01234567             a model at a commit
    hf://datasets/owner/name@0123456789abcdef0123456789abcdef01234567    a data set at a commit

Only a full commit hash says the same bytes forever. A branch, a tag or no revision at all is still
understood, because a release can be planned before it is pinned; whatever reads the repository
calls `HubRepository.require_pinned` first. Nothing here reaches the network or the disk.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scion.common.errors import ScionError

SCHEME = "hf://"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_NAME = 96
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(
    rf"hf://(?P<datasets>datasets/)?(?P<name>{_NAME}/{_NAME})(?:@(?P<revision>[^\s@]+))?"
)


@dataclass(frozen=True)
class LocalFolder:
    """A path on this machine, as it was written."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class HubRepository:
    """A repository of the hub; `str()` gives the form that `parse_location` reads.

    Attributes:
        kind: What the hub keeps it as.
        name: `owner/name`.
        revision: Commit hash, branch or tag; None where none was written.
    """

    kind: Literal["model", "dataset"]
    name: str
    revision: str | None

    def __str__(self) -> str:
        prefix = "datasets/" if self.kind == "dataset" else ""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{prefix}{self.name}{revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit hash."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> "HubRepository":
        """The same repository at another revision."""
        return replace(self, revision=commit)

    def require_model(self) -> None:
        """Refuse a data set.

        Raises:
            ScionError: It is one.
        """
        if self.kind != "model":
            raise ScionError(
                "a data set is no checkpoint",
                where=self,
                expected=f"{SCHEME}owner/name, a model",
                found=f"the data set {self.name}",
                hint="name the model's repository",
            )

    def require_pinned(self, config_file: object = "CONFIG_FILE") -> str:
        """Return the commit hash.

        Args:
            config_file: The file that names the repository, for the hint.

        Raises:
            ScionError: The revision is missing, or is not a full commit hash.
        """
        if self.revision is None or not self.is_pinned:
            raise ScionError(
                "a hub repository is not pinned to a commit, so its content could change",
                where=self,
                expected=self.at("<40-digit commit hash>"),
                found="no revision" if self.revision is None else f"revision {self.revision!r}",
                hint=f"scion pin {config_file}",
            )
        return self.revision


def parse_location(text: str) -> LocalFolder | HubRepository:
    """Understand a location as configuration files write it.

    Raises:
        ScionError: Neither a path nor of the form `hf://owner/name@revision`.
    """
    if "://" not in text:
        return LocalFolder(Path(text))
    match = _REPOSITORY.fullmatch(text)
    # `hf://datasets/name` is a data set without its owner, not a model of an owner `datasets`.
    if match is None or match["name"].startswith("datasets/") or _is_refused(match["name"]):
        raise ScionError(
            "a location is not understood",
            where=repr(text),
            expected="a local path, hf://owner/name@commit or hf://datasets/owner/name@commit",
            found=_what_is_wrong(text),
            hint="write it as the repository's page shows it, owner and name",
        )
    kind = "dataset" if match["datasets"] else "model"
    return HubRepository(kind=kind, name=match["name"], revision=match["revision"])


def _is_refused(name: str) -> bool:
    """Whether the hub takes no such name, however its letters are."""
    longest = any(len(part) > _LONGEST_NAME for part in name.split("/"))
    return longest or "--" in name or ".." in name or name.endswith(".git")


def _what_is_wrong(text: str) -> str:
    if not text.startswith(SCHEME):
        return f"an address that begins with {text.split('://')[0]}://"
    name = text.removeprefix(SCHEME).removeprefix("datasets/").split("@")[0]
    if _is_refused(name):
        return (
            f"{name!r}: the hub takes no --, no .., no .git at the end, and {_LONGEST_NAME} letters"
        )
    parts = len(name.split("/"))
    return f"{parts} part{'s' if parts > 1 else ''} before the revision: {name!r}"
