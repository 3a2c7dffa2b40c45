"""The locked environments of a run: where they are, and what a manifest calls them.

uv installs each beside its lock, into `.venv`. Nix builds them into its store and says in
SCION_ENVIRONMENTS where: a folder with one environment for each folder of envs/. A manifest names
an environment by the digest of its locks; one of Nix's by its store path, which stands for the
interpreter and every library below it as well, and then by the same digest, so that two manifests
show whether their locks were equal however the environments were installed.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from scion.common.errors import ScionError

VARIABLE = "SCION_ENVIRONMENTS"
# Nix's digests are of 32 letters, without e, o, t and u.
_STORE_NAME = re.compile(r"[0-9a-df-np-sv-z]{32}-.+")


def prefix(folder: str) -> Path:
    """The environment that the lock in a folder of the project describes, such as `envs/evaluate`.

    Nothing says that it is there.
    """
    built = os.environ.get(VARIABLE)
    return Path(built) / Path(folder).name if built else Path(folder) / ".venv"


def interpreter(folder: str) -> Path:
    """The Python of the environment that `prefix` names."""
    return prefix(folder) / "bin" / "python"


def not_installed(folder: str) -> ScionError | None:
    """The error of an environment whose interpreter is not there; None if it is."""
    python, name = interpreter(folder), Path(folder).name
    if python.exists():
        return None
    chosen = f"SERVING={name} " if name.startswith("serve-") else ""
    chosen = "KUBERNETES=1 " if name == "kubernetes" else chosen
    return ScionError(
        f"the environment {name} is not installed",
        where=python,
        expected=f"the interpreter of {folder}",
        found="no such file",
        hint=f"make {chosen}setup; with Nix, nix run or nix develop",
    )


def identity(locks: str, prefixes: Iterable[Path]) -> str:
    """What a manifest calls the environments that a stage runs in.

    Args:
        locks: Digest of their locks, `sha256:…`.
        prefixes: Their folders.

    Returns:
        The store paths of those that Nix built, if any, and the digest, with spaces between.
    """
    resolved = [folder.resolve() for folder in prefixes]
    built = [folder for folder in resolved if folder.parent.name == "store"]
    return " ".join(
        [*(str(folder) for folder in built if _STORE_NAME.fullmatch(folder.name)), locks]
    )


def locks_of(identity: str) -> str:
    """The digest of the locks in a manifest's `environment`."""
    return identity.split(" ")[-1]
