"""The wheels that a Nix environment holds: which, what their ELF files need, what files they bring.

Which wheels: uv says what is locked for an environment, `packaging` which file of it fits CPython
3.12 on x86-64. What they need: pyelftools, on each file of a wheel that nixpkgs' auto-patchelf
would patch. What they bring: the wheel's own RECORD, of which `remotezip` reads no more than that.
"""

from __future__ import annotations

import configparser
import csv
import hashlib
import re
import subprocess
import tempfile
import tomllib
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename
from remotezip import RemoteZip, RemoteZipError
from tqdm import tqdm

import lock
from lock import ROOT

PYTHON = (3, 12)
"""The interpreter of the Nix environments (envs/nix/environments.nix)."""
_GLIBC_MINOR = 42
"""nixpkgs 26.05 has glibc 2.42: wheels of manylinux_2_42 and older run."""


class ElfError(Exception):
    """Something is unmet, or does not fit; the text says what and what to do."""


@dataclass(frozen=True)
class Wheel:
    """A wheel that a Nix environment holds."""

    name: str
    file: str
    url: str
    size: int
    sha256: str

    @property
    def manylinux(self) -> bool:
        """Whether uv2nix gives it the libraries of manylinux."""
        return any(part.startswith("manylinux") for part in self.file.split("-")[-1].split("."))


def locked_wheels(environment: Path) -> list[Wheel]:
    """The wheels of an environment for CPython 3.12 on x86-64, as uv2nix chooses them.

    Of several that fit, it takes the one for the latest Python, and of those the first of the lock
    (pyproject.nix, lib/pypa.nix, selectWheels). Packages that have no wheel are not among them:
    they are built from source.
    """
    command = [str(lock.TOOLS / "bin/uv"), "export", "--frozen", "--format", "pylock.toml"]
    options = ["--all-groups", "--all-extras", "--quiet", "--project", str(ROOT / environment)]
    done = subprocess.run(
        [*command, *options], check=True, capture_output=True, text=True, env=lock.uv_environment()
    )
    version = ".".join(map(str, PYTHON))
    facts = {"python_version": version, "python_full_version": f"{version}.0"}
    tags = _tags()
    wheels: list[Wheel] = []
    for package in tomllib.loads(done.stdout)["packages"]:
        if "marker" in package and not Marker(package["marker"]).evaluate(facts):
            continue
        fitting = {
            _file_name(wheel): (wheel, tags & parse_wheel_filename(_file_name(wheel))[3])
            for wheel in package.get("wheels", ())
        }
        pythons = {
            name: max(int(re.sub(r"\D", "", tag.interpreter)) for tag in shared)
            for name, (_, shared) in fitting.items()
            if shared
        }
        if pythons:
            name = max(pythons, key=lambda file: pythons[file])
            best = fitting[name][0]
            digest = best["hashes"]["sha256"]
            wheels.append(Wheel(package["name"], name, best["url"], best["size"], digest))
    return wheels


def _file_name(wheel: dict[str, Any]) -> str:
    return wheel["url"].rsplit("/", 1)[1]


def _tags() -> frozenset[Tag]:
    """The tags that fit."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, _GLIBC_MINOR + 1)]
    platforms += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
    platforms.append("linux_x86_64")
    interpreter = f"cp{PYTHON[0]}{PYTHON[1]}"
    return frozenset(
        [
            *cpython_tags(PYTHON, abis=[interpreter], platforms=platforms),
            *compatible_tags(PYTHON, interpreter, platforms),
        ]
    )


def read_wheel(file: Path) -> dict[str, Any]:
    """What a wheel's ELF files need and provide, by names of files.

    Returns:
        `needs`: by library that the wheel does not hold itself, one of the files that need it.
        `provides`: the libraries that another wheel could need, with their folder once installed.
    """
    needs: dict[str, str] = {}
    provided: dict[str, str] = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.rsplit("/", 1)[-1]
            with archive.open(member) as stream:
                if stream.read(4) != b"\x7fELF":
                    continue
            if ".so" in name:
                provided[name] = installed_folder(member.filename)
            with tempfile.TemporaryFile() as copy:
                with archive.open(member) as stream:
                    while block := stream.read(1 << 24):
                        copy.write(block)
                for library in _needed(copy):
                    needs.setdefault(library, member.filename)
    return {
        "needs": {name: needs[name] for name in sorted(needs) if name not in provided},
        "provides": {name: provided[name] for name in sorted(provided) if not _is_module(name)},
    }


def installed_folder(member: str) -> str:
    """The folder of a wheel's file once it is installed, relative to the environment."""
    folder = PurePosixPath(member).parent
    site = PurePosixPath("lib", f"python{PYTHON[0]}.{PYTHON[1]}", "site-packages")
    if len(folder.parts) > 1 and folder.parts[0].endswith(".data"):
        # Where a scheme's files go: packaging.python.org, "Binary distribution format".
        schemes = {"data": PurePosixPath(), "scripts": PurePosixPath("bin")}
        return str(schemes.get(folder.parts[1], site).joinpath(*folder.parts[2:]))
    return str(site / folder)


class _EntryPoints(configparser.RawConfigParser):
    """Keeps names as they are written; those of commands have a case."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def installed_files(wheel: Wheel) -> dict[str, str]:
    """Where the files of a wheel go, relative to the environment, with what tells their contents.

    Commands are among them, which an installer writes by the wheel's entry points.

    Raises:
        ElfError: The index does not give parts of files, or no wheel.
    """
    try:
        with RemoteZip(wheel.url) as archive:
            texts = {
                name.rsplit("/", 1)[1]: archive.read(name).decode()
                for name in archive.namelist()
                if re.fullmatch(r"[^/]+\.dist-info/(RECORD|entry_points\.txt)", name)
            }
    except (OSError, zipfile.BadZipFile, RemoteZipError) as error:
        raise ElfError(
            f"the list of files of {wheel.file} can't be read\n  where:    {wheel.url}\n"
            f"  found:    {error}\n  hint:     run it again; the index has to answer Range requests"
        ) from error
    files = {
        f"{installed_folder(name)}/{name.rsplit('/', 1)[-1]}": digest
        for name, digest, _ in csv.reader(texts["RECORD"].splitlines())
        if not name.endswith(".dist-info/RECORD")
    }
    commands = _EntryPoints(delimiters="=")
    commands.read_string(texts.get("entry_points.txt", ""))
    for section in ("console_scripts", "gui_scripts"):
        if commands.has_section(section):
            files.update({f"bin/{name}": target for name, target in commands.items(section)})
    return files


def _needed(stream: IO[bytes]) -> list[str]:
    """The libraries that an ELF file is linked to, if nixpkgs would patch it."""
    try:
        elf = ELFFile(stream)
        if elf.get_machine_arch() != "x64" or elf.num_segments() == 0:
            return []
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                # The attribute is set by name, which its types do not tell.
                return [getattr(tag, "needed") for tag in section.iter_tags("DT_NEEDED")]  # noqa: B009
    except ELFError:
        pass
    return []


def _is_module(name: str) -> bool:
    """An extension module: Python loads it, nothing links to it."""
    return ".cpython-" in name or name.endswith(".abi3.so")


def fetch(wheel: Wheel, target: Path) -> None:
    """Download a wheel, with progress.

    Raises:
        ElfError: It can't be had, or is not the file that is locked.
    """
    digest = hashlib.sha256()
    bar = tqdm(
        desc=wheel.name, total=wheel.size, unit="B", unit_scale=True, leave=False, disable=None
    )
    try:
        with (
            urllib.request.urlopen(wheel.url, timeout=120) as response,
            target.open("wb") as file,
            bar as progress,
        ):
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
                progress.update(len(block))
    except OSError as error:
        raise ElfError(
            f"{wheel.file} can't be downloaded\n  where:    {wheel.url}\n  found:    {error}\n"
            "  hint:     run it again; wheels that were read are not downloaded again"
        ) from error
    if digest.hexdigest() != wheel.sha256:
        raise ElfError(
            f"{wheel.file} is not the file that is locked\n"
            f"  expected: sha256 {wheel.sha256}\n"
            f"  found:    sha256 {digest.hexdigest()}\n"
            "  hint:     run it again; if that stays, ask whoever runs the index"
        )
