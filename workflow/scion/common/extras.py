"""Modules that only an extra of the package brings: which, and what to type where one is missing.

`scion` alone lints, checks, compares, launches and estimates. Reading a hub takes the extra `hub`,
signing and attestations the extra `attest`, running a model or the workflow the extra `workflow`,
which has the others in it; pyproject.toml says what is in each.
"""

import json
import shlex
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError

EXTRA_OF: Mapping[str, str] = {
    **dict.fromkeys(("httpx", "huggingface_hub"), "hub"),
    **dict.fromkeys(
        (
            *("cryptography", "cyclonedx", "google", "in_toto_attestation", "model_signing"),
            *("packageurl", "rocrate"),
        ),
        "attest",
    ),
    **dict.fromkeys(
        (
            *("accelerate", "datasets", "fsspec", "markdown_it", "matplotlib", "modelopt"),
            "networkx",
            *("numba", "openai", "rich", "safetensors", "scipy", "snakemake"),
            *("snakemake_interface_logger_plugins", "torch", "tqdm", "transformers"),
        ),
        "workflow",
    ),
}
"""The smallest extra that brings a module, of the modules that Scion alone does without."""

_PACKAGE = "scion"
_OF_A_CHECKOUT = "make setup, in the checkout; its programs are in .venv/bin"


class MissingExtraError(ScionError):
    """A module is not installed that only an extra of the package brings."""


@contextmanager
def extras_told() -> Generator[None]:
    """Tell of an import in the block that failed because an extra is not installed.

    Raises:
        MissingExtraError: Its hint is the command that installs the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name or "")
        if extra is None:
            raise
        raise MissingExtraError(
            f"this needs {_PACKAGE}'s extra `{extra}`, which is not installed",
            where=sys.prefix,
            expected=f"the module {error.name}",
            found="no such module",
            hint=install_command(extra),
        ) from error


def _extra_of(module: str) -> str | None:
    """The extra that brings a module which can't be imported; None for a fault of the code."""
    top = module.partition(".")[0]
    if module != top:
        # Of what is installed nothing is missing, but of a namespace, which others may have made.
        spec = find_spec(top)
        if spec is not None and spec.origin is not None:
            return None
    return EXTRA_OF.get(top)


def install_command(extra: str) -> str:
    """The command that installs this package again, from where it came, with an extra."""
    # 20 ms of imports, for this message alone.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        installed = distribution(_PACKAGE)
    except PackageNotFoundError:
        return _OF_A_CHECKOUT
    origin: dict[str, Any] = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return _OF_A_CHECKOUT
    requirement = shlex.quote(f"{_PACKAGE}[{extra}]{_source(origin)}")
    return f"{_installer(installed.read_text('INSTALLER') or '')} {requirement}"


def _source(origin: Mapping[str, Any]) -> str:
    """What a requirement says of an origin, as PEP 610 records it; nothing for an index."""
    if "url" not in origin:
        return ""
    vcs, folder = origin.get("vcs_info"), origin.get("subdirectory")
    url = f"{vcs['vcs']}+{origin['url']}@{vcs['commit_id']}" if vcs else origin["url"]
    return f" @ {url}" + (f"#subdirectory={folder}" if folder else "")


def _installer(name: str) -> str:
    """The words before the requirement: of the program that made this environment."""
    if (Path(sys.prefix) / "uv-receipt.toml").is_file():
        return "uv tool install"
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        return "pipx install --force"
    python = shlex.quote(sys.executable)
    return (
        f"uv pip install --python {python}" if name.strip() == "uv" else f"{python} -m pip install"
    )
