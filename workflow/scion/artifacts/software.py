"""Which Scion made something: its version, the commit of its code, and where that can be had.

A release's card and manifest name it for people, who want to see the code or install it. It decides
nothing: no recipe and no key depends on it, for the digests of code say what counts of the code.
So a commit that changes no stage's code makes nothing anew, and a card goes on naming the commit
that rendered it.
"""

import functools
import importlib.metadata
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scion.common.errors import ScionError

FACT = "made_by"
VARIABLE = "SCION_COMMIT"
_PACKAGE = Path(__file__).parents[1]
# What of a checkout decides what a run does; a release's config file is recorded by itself.
_CODE = ("Snakefile", "rules", "workflow", "envs", "pyproject.toml", "uv.lock.neutral")
_COMMIT = re.compile(r"(?P<commit>[0-9a-f]{40}|[0-9a-f]{64})(?P<modified>-dirty)?")
# Labels of `[project.urls]`, the best first.
# https://packaging.python.org/en/latest/specifications/well-known-project-urls/
_LABELS = ("source", "repository", "sourcecode", "github", "homepage")
# Hosts that show over HTTPS what they serve over SSH.
_SSH = re.compile(
    r"(?:ssh://)?git@(?P<host>github\.com|gitlab\.com|codeberg\.org|bitbucket\.org)[:/](?P<path>.+)"
)


@dataclass(frozen=True)
class Software:
    """One Scion.

    Attributes:
        version: As its package declares it.
        commit: Of its code, whole; None where nobody can say.
        modified: Whether the code is not quite that of the commit.
        url: Where its repository can be had, `https://…`; None where nobody can say.
    """

    version: str
    commit: str | None = None
    modified: bool = False
    url: str | None = None

    def __str__(self) -> str:
        """Version and commit, as a terminal shows them."""
        if self.commit is None:
            return self.version
        changes = " with changes that are not committed" if self.modified else ""
        return f"{self.version}, commit {self.commit}{changes}"

    @property
    def install(self) -> str | None:
        """The command that installs the code of the commit; None without address or commit."""
        if self.url is None or self.commit is None:
            return None
        return f'uv tool install "git+{self.url}@{self.commit}"'

    @property
    def page(self) -> str | None:
        """The address to show, of the commit where its host is known to have such pages."""
        if self.url is None or self.commit is None or urlsplit(self.url).hostname != "github.com":
            return self.url
        return f"{self.url}/tree/{self.commit}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def read(cls, text: str) -> "Software":
        """What `json.dumps` made of a record.

        Raises:
            ScionError: It is something else.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise ScionError(
                "the option does not say which Scion this is",
                where="--made-by",
                expected='JSON such as {"version": "0.1.0", "commit": null}',
                found=error,
                hint="leave the option out",
            ) from error


def is_outdated(manifest: Mapping[str, Any], now: Software | None = None) -> bool:
    """Whether something names a commit whose code was modified, and this is a commit's own code.

    What was made before a change was committed is made again after it.

    Args:
        manifest: Of a card or a release.
        now: The Scion that runs; None for `this_software`, which is asked only if it matters.
    """
    made_by = manifest["facts"].get(FACT)
    if not isinstance(made_by, dict) or made_by.get("modified") is not True:
        return False
    now = now or this_software()
    return now.commit is not None and not now.modified


@functools.cache
def this_software(package: Path = _PACKAGE) -> Software:
    """The Scion that runs.

    Version and address are those that pyproject.toml of its checkout declares, or the metadata of
    what is installed. The commit is that of the checkout, if it is a git repository of its own; of
    what was installed from a repository, by its direct_url.json; or the one that SCION_COMMIT
    names, as the flake sets it. Where no address is declared it is that of the checkout's remote.

    Args:
        package: The folder of the package.
    """
    root = package.parents[1]
    project = _project(root)
    if project is not None:
        commit, modified = _head(root) or _named()
        url = _declared(project.get("urls", {}).items()) or public_address(_remote(root))
        return Software(str(project["version"]), commit, modified, url)
    installed = _distribution(package)
    if installed is None:
        return Software("unknown", *_named())
    direct = json.loads(installed.read_text("direct_url.json") or "{}")
    commit = direct.get("vcs_info", {}).get("commit_id")
    url = public_address(direct.get("url")) if commit else None
    commit, modified = (commit, False) if commit else _named()
    labels = (entry.split(", ", 1) for entry in installed.metadata.get_all("Project-URL") or ())
    return Software(installed.version, commit, modified, url or _declared(labels))


def public_address(remote: str | None) -> str | None:
    """What everybody can write for a repository: HTTPS, without user and password.

    Args:
        remote: As git has it, such as `git@github.com:owner/name.git`.

    Returns:
        None for what is no such address: a folder, or a host that may show nothing over HTTPS.
    """
    if remote is None:
        return None
    if by_ssh := _SSH.fullmatch(remote):
        remote = f"https://{by_ssh['host']}/{by_ssh['path']}"
    try:
        parts = urlsplit(remote)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    if parts.scheme != "https" or not parts.hostname or not re.fullmatch(r"[\w./~+-]+", parts.path):
        return None
    return f"https://{parts.hostname}{port}{parts.path.rstrip('/').removesuffix('.git')}"


def _declared(labels: Iterable[Iterable[str]]) -> str | None:
    """The address of the repository among those of a project, by label."""
    by_label = {re.sub(r"[\W_]", "", label).lower(): public_address(url) for label, url in labels}
    return next((by_label[label] for label in _LABELS if by_label.get(label)), None)


def _project(root: Path) -> dict[str, Any] | None:
    """The table `project` of a checkout of Scion; None for another folder."""
    path = root / "pyproject.toml"
    if not path.is_file():
        return None
    project = tomllib.loads(path.read_text()).get("project", {})
    return project if project.get("name") == _PACKAGE.name else None


def _distribution(package: Path) -> importlib.metadata.Distribution | None:
    """What is installed, if it is this code: a PYTHONPATH may name another."""
    try:
        found = importlib.metadata.distribution(_PACKAGE.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if Path(str(found.locate_file(package.name))) == package else None


def _head(root: Path) -> tuple[str, bool] | None:
    """Commit of a checkout, and whether its code was modified; None if it has none of its own."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # It may lie in a repository of something else.
    if top is None or Path(top) != root.resolve():
        return None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "--no-optional-locks", "status", "--porcelain", "--", *_CODE)
    return None if commit is None else (commit, changes != "")


def _remote(root: Path) -> str | None:
    return _git(root, "config", "--get", "remote.origin.url")


def _git(root: Path, *arguments: str) -> str | None:
    """What git says of a checkout; None where it fails, or there is no git."""
    # A hook's variables would name the repository that it runs in.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _named() -> tuple[str | None, bool]:
    """The commit that the flake names, with `-dirty` behind it where its code was modified."""
    named = _COMMIT.fullmatch(os.environ.get(VARIABLE, ""))
    return (None, False) if named is None else (named["commit"], named["modified"] is not None)
