"""Lock the environments without naming the index that the packages come from.

    python tools/lock.py update [--upgrade]   resolve anew, write uv.lock.neutral (`make lock`)
    python tools/lock.py expand               write the uv.lock files that uv reads
    python tools/lock.py check                fail if a neutral lock does not fit its pyproject.toml

uv writes the address of the index and of every file into uv.lock. The committed form,
uv.lock.neutral, says `pypi` for the index and `mirror://pypi/../<path>` for a file: an address that
nixpkgs resolves by itself, and that `expand` turns into the one of this machine's index, byte for
byte what `update` had read. The index is the one that uv or pip is set to use (`UV_DEFAULT_INDEX`,
`UV_INDEX_URL`, `PIP_INDEX_URL`, pip's configuration files), else pip's own default. The address of
the files is asked of a mirror itself, or given as `SCION_FILES_URL`.

Needs the standard library and .tools (pip and uv, from tools/setup.py, or in `nix develop` what
SCION_TOOLS names) only, so that it runs before any other environment exists.
"""

# For an older Python to get as far as the message that it is too old.
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(os.environ.get("SCION_TOOLS") or ROOT / ".tools")
"""uv, and a Python with pip: from tools/setup.py, or in `nix develop` from there."""
SERVING_ENVIRONMENTS = (Path("envs/serve-cpu"), Path("envs/serve-cuda"))
"""Those of the environments that hold a server; a set-up installs one of them."""
EVALUATION_ENVIRONMENT = Path("envs/evaluate")
"""The environment of the harnesses that ask a server and score its answers."""
CLUSTER_ENVIRONMENT = Path("envs/kubernetes")
"""What hands jobs to Kubernetes; installed where it is asked for, and for the tests."""
TEST_ENVIRONMENTS = (Path("envs/sglang"), Path("envs/hermes"))
"""The environments that only the tests need."""
ENVIRONMENTS = (
    *(Path(), *SERVING_ENVIRONMENTS, EVALUATION_ENVIRONMENT),
    *(CLUSTER_ENVIRONMENT, *TEST_ENVIRONMENTS),
)
"""The folders of the pyproject.toml files that have a lock, relative to the repository."""
LOCAL_PACKAGES = (Path("workflow/vllm_plugin"),)
"""Packages in the repository that an environment takes from their folder."""

NEUTRAL_INDEX = "pypi"
NEUTRAL_FILES = "mirror://pypi/../"

# uv options that would make it work on another project, or refuse the options it is given here.
_DISTURBING = (
    "UV_FROZEN",
    "UV_LOCKED",
    "UV_NO_SYNC",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_PYTHON",
    "UV_WORKING_DIRECTORY",
    "VIRTUAL_ENV",
)
_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_FILE_PATH = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/\"#?]+")


class LockError(Exception):
    """A lock that can't be used; the text says why and what to do."""


@dataclass(frozen=True)
class Index:
    """Where packages come from: the index, and the folder of the files (with its last slash)."""

    simple: str
    files: str


def strip(text: str, index: Index) -> str:
    """The neutral form of a uv.lock. `expand(strip(text, index), index) == text`.

    Raises:
        LockError: An address of a host is left.
    """
    text = text.replace(f'registry = "{index.simple}"', f'registry = "{NEUTRAL_INDEX}"')
    text = text.replace(f'url = "{index.files}', f'url = "{NEUTRAL_FILES}')
    left = {word for word in re.findall(r'"(\w+://[^"]*)"', text) if not _is_neutral(word)}
    if left:
        raise LockError(
            f"{len(left)} addresses in uv.lock are not of the index {index.simple}\n"
            f"  first:    {min(left)}\n"
            f"  expected: addresses that begin with {index.files}\n"
            "  hint:     lock with the default index, or set SCION_FILES_URL to its files' folder"
        )
    return text


def _is_neutral(address: str) -> bool:
    path = address.removeprefix(NEUTRAL_FILES)
    return path != address and _FILE_PATH.fullmatch(path) is not None


def expand(text: str, index: Index) -> str:
    """The uv.lock that `text`, a neutral lock, stands for at `index`."""
    text = text.replace(f'registry = "{NEUTRAL_INDEX}"', f'registry = "{index.simple}"')
    return text.replace(f'url = "{NEUTRAL_FILES}', f'url = "{index.files}')


def find_index(sample_lock: str) -> Index:
    """The index that this machine is set to use.

    Args:
        sample_lock: A neutral lock (may be empty), to ask a mirror for one of its files.
    """
    simple, files = _pip_default()
    chosen = (_configured_index() or simple).rstrip("/")
    given = os.environ.get("SCION_FILES_URL")
    if given:
        return Index(chosen, given.rstrip("/") + "/")
    if chosen == simple.rstrip("/"):
        return Index(chosen, files)
    return Index(chosen, _files_of_mirror(chosen, sample_lock))


def _pip_default() -> tuple[str, str]:
    """The index that pip itself comes with, and the folder of its files."""
    code = (
        "from pip._internal.models.index import PyPI;"
        "print(PyPI.simple_url); print(PyPI.file_storage_domain)"
    )
    simple, domain = _output(str(TOOLS / "bin/python"), "-c", code).split()
    return simple, f"https://{domain}/packages/"


def _configured_index() -> str | None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        if value := os.environ.get(name):
            # UV_DEFAULT_INDEX may be `name=address`.
            return re.sub(r"^[\w.-]+=(?=\w+:)", "", value)
    settings = _output(str(TOOLS / "bin/python"), "-m", "pip", "config", "list")
    indexes = dict(re.findall(r"^(\S+)\.index-url='([^']+)'$", settings, re.MULTILINE))
    return indexes.get(":env:") or indexes.get("install") or indexes.get("global")


def _files_of_mirror(simple: str, sample_lock: str) -> str:
    """The folder of a mirror's files, from the links of its page of one locked package."""
    sample = re.search(rf'url = "{re.escape(NEUTRAL_FILES)}([^"]+)"', sample_lock)
    if sample is None:
        raise LockError(
            f"the files' folder of the index {simple} is not known without a neutral lock\n"
            "  hint:     set SCION_FILES_URL"
        )
    path = sample[1]
    package = path.rsplit("/", 1)[1].split("-")[0].replace("_", "-").lower()
    page = f"{simple}/{package}/"
    try:
        with urllib.request.urlopen(page, timeout=60) as response:
            text, address = response.read().decode(), response.geturl()
    except (urllib.error.URLError, OSError, ValueError) as error:
        text, address = str(error), page
    for link in re.findall(r'href="([^"#]+)', text):
        target = urllib.parse.urljoin(address, link)
        if target.endswith("/" + path):
            return target.removesuffix(path)
    raise LockError(
        f"the index {simple} does not say where its files are\n"
        f"  where:    {page}\n"
        f"  expected: a link that ends with {path}\n"
        "  hint:     set SCION_FILES_URL to the folder that holds such paths, or use the\n"
        "            default index: UV_DEFAULT_INDEX= PIP_INDEX_URL= make setup"
    )


def expand_all(folder: Path = ROOT) -> Index:
    """Write uv.lock beside every neutral lock under `folder`, where it differs."""
    index = find_index((ROOT / "uv.lock.neutral").read_text())
    for environment in ENVIRONMENTS:
        neutral = ROOT / environment / "uv.lock.neutral"
        if not neutral.exists():  # A new environment: `update` locks it.
            continue
        text = expand(neutral.read_text(), index)
        target = folder / environment / "uv.lock"
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
    return index


def update_all(*, upgrade: bool) -> None:
    """Resolve every environment, keeping locked versions that still fit, and strip the locks."""
    neutral = ROOT / "uv.lock.neutral"
    index = expand_all() if neutral.exists() else find_index("")
    for environment in ENVIRONMENTS:
        command = [*_lock_command(ROOT / environment, index), *(["--upgrade"] if upgrade else [])]
        subprocess.run(command, check=True, env=uv_environment())
        text = (ROOT / environment / "uv.lock").read_text()
        (ROOT / environment / "uv.lock.neutral").write_text(strip(text, index))


def check_all() -> None:
    """Raise `LockError` if a neutral lock names a host or does not fit its pyproject.toml."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for environment in (*ENVIRONMENTS, *LOCAL_PACKAGES):
            for file in (ROOT / environment / "pyproject.toml", ROOT / environment / "README.md"):
                if file.exists():
                    (copy / environment).mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, copy / environment)
        index = expand_all(copy)
        for environment in ENVIRONMENTS:
            strip((copy / environment / "uv.lock").read_text(), index)
            command = [*_lock_command(copy / environment, index), "--check"]
            done = subprocess.run(command, env=uv_environment(), capture_output=True, text=True)
            if done.returncode:
                raise LockError(
                    f"{environment / 'uv.lock.neutral'} does not fit its pyproject.toml\n"
                    f"  found:    {done.stderr.strip()}\n"
                    "  hint:     make lock"
                )


def _lock_command(folder: Path, index: Index) -> list[str]:
    command = [str(TOOLS / "bin/uv"), "lock", "--project", str(folder)]
    return [*command, "--default-index", index.simple, "--python", sys.executable]


def uv_environment() -> dict[str, str]:
    """The environment to start uv in: the user's, less what would send it elsewhere."""
    kept = {name: value for name, value in os.environ.items() if name not in _DISTURBING}
    # The system's certificates, as pip takes them, know a company's proxy; uv's own do not.
    default = {"UV_SYSTEM_CERTS": "1"} if any(map(os.path.exists, _CERTIFICATES)) else {}
    return default | kept | {"UV_PYTHON_DOWNLOADS": "never"}


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Parse the arguments and do one action."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("update", "expand", "check"))
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    try:
        if arguments.action == "update":
            update_all(upgrade=arguments.upgrade)
        elif arguments.action == "expand":
            expand_all()
        else:
            check_all()
    except LockError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {json.dumps(error.cmd)} ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
