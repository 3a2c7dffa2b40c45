"""Whether the locked wheels find their shared libraries under Nix, and do not collide.

    python tools/elf_needs.py scan     read the wheels that the record lacks, check (`make lock`)
    python tools/elf_needs.py check    hold locks, record and overrides against each other

The programs and libraries in a wheel name the libraries that they need. Under Nix each of those has
to come from the wheel itself, from nixpkgs, or from another wheel of its environment, else the
build stops, or the program does. `envs/nix/wheels.toml` holds what has to be decided by hand, for
Nix and for this script alike; `envs/nix/elf-needs.json` what the wheels were seen to need, by their
SHA-256, and what follows of it for Nix. `scan` downloads the wheels that are new (6 GB, if all
are), one after another, hash checked, and keeps none of them; `check` needs no network.

Libraries are looked for as nixpkgs' auto-patchelf does, the way that uv2nix sets it up: by names of
files, in the wheel's own folders, in glibc, in the libraries of manylinux, and in what the
overrides add. A file that two wheels bring with other contents stops the build of an environment as
well, where other installers let the last one win: `scan` compares the wheels' lists of files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tqdm import tqdm

import lock
from elf_wheels import ElfError, Wheel, fetch, installed_files, locked_wheels, read_wheel
from lock import ROOT, LockError

OVERRIDES = ROOT / "envs/nix/wheels.toml"
RECORD = ROOT / "envs/nix/elf-needs.json"
FLAKE_LOCK = ROOT / "flake.lock"

DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")
"""What comes with the host's GPU driver, and from nowhere else."""
GLIBC = (
    *("ld-linux-x86-64.so.2", "libanl.so.1", "libc.so.6", "libdl.so.2", "libm.so.6"),
    *("libmvec.so.1", "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libutil.so.1"),
)
MANYLINUX = (
    *("libGL.so.1", "libICE.so.6", "libSM.so.6", "libX11.so.6", "libXext.so.6"),
    *("libXrender.so.1", "libexpat.so.1", "libgcc_s.so.1", "libglib-2.0.so.0"),
    *("libgobject-2.0.so.0", "libgthread-2.0.so.0", "libstdc++.so.6", "libz.so.1"),
)
"""Beside glibc's, what uv2nix gives a wheel with a manylinux tag (nixpkgs' manylinux2014)."""


@dataclass(frozen=True)
class Environment:
    """A locked environment as Nix builds it: named like its folder, or `root`."""

    name: str
    wheels: Sequence[Wheel]
    dependencies: Mapping[str, set[str]]
    """By package, the packages that it asks for itself."""

    @classmethod
    def read(cls, folder: Path) -> Environment:
        """From the lock in a folder, relative to the repository."""
        text = (ROOT / folder / "uv.lock.neutral").read_text()
        direct: dict[str, set[str]] = {}
        for package in tomllib.loads(text)["package"]:
            extras = package.get("optional-dependencies", {}).values()
            for group in (package.get("dependencies", []), *extras):
                direct.setdefault(package["name"], set()).update(
                    requirement["name"] for requirement in group
                )
        return cls(folder.name or "root", locked_wheels(folder), direct)

    def below(self, name: str) -> set[str]:
        """All that a package needs, however far down."""
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            new = self.dependencies.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        return reached - {name}


class Overrides:
    """What envs/nix/wheels.toml says."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.libraries: dict[str, list[str]] = content["libraries"]
        self.wheels: dict[str, dict[str, Any]] = content["wheels"]
        self.collisions: dict[str, str] = content["collisions"]
        file = OVERRIDES.relative_to(ROOT)
        _refuse(
            "overrides have no reason",
            [name for name, entry in self.wheels.items() if not entry.get("reason")],
            f"say in {file} why the wheel needs it",
        )
        _refuse(
            "overrides name a library whose files are not known",
            [
                f"{name}: {value}"
                for name, key, value in self.entries()
                if key == "libraries" and value not in self.libraries
            ],
            f"list the files of that attribute of nixpkgs under [libraries] in {file}",
        )

    def of(self, wheel: str, key: str) -> list[str]:
        """A list of a wheel's entry, empty where there is none."""
        return self.wheels.get(wheel, {}).get(key, [])

    def entries(self, *keys: str) -> list[tuple[str, str, str]]:
        """Every wheel, key and value, or those of some keys."""
        return [
            (wheel, key, value)
            for wheel, entry in self.wheels.items()
            for key, values in entry.items()
            if key != "reason" and (not keys or key in keys)
            for value in values
        ]

    def absent(self, wheel: str, library: str) -> str | None:
        """The pattern under which a library is left out, if it is."""
        return next(
            (pattern for pattern in self.of(wheel, "absent") if fnmatch(library, pattern)), None
        )


def read_environments() -> list[Environment]:
    """Every environment that is locked."""
    return [Environment.read(folder) for folder in lock.ENVIRONMENTS]


def read_overrides() -> Overrides:
    """The overrides that are written by hand."""
    return Overrides(tomllib.loads(OVERRIDES.read_text()))


def read_record() -> dict[str, Any]:
    """What was read off the wheels.

    `wheels` holds it by SHA-256, `environments` what follows of it for Nix, `collisions` the files
    that wheels of one environment bring with other contents, and `inputs` the flake inputs that
    this holds for: nixpkgs' libraries, and how uv2nix hands them to wheels.
    """
    return json.loads(RECORD.read_text())


def read_inputs() -> dict[str, str]:
    """The flake's inputs as they are locked: revision and hash by name."""
    nodes: dict[str, Any] = json.loads(FLAKE_LOCK.read_text())["nodes"]
    locked = {name: node["locked"] for name, node in nodes.items() if "locked" in node}
    return {name: f"{node['rev']} {node['narHash']}" for name, node in sorted(locked.items())}


def scan() -> None:
    """Bring the record up to date: read what is new, drop what is locked no more."""
    lock.expand_all()
    empty: dict[str, Any] = {"wheels": {}, "environments": {}, "collisions": {}}
    record = empty | (read_record() if RECORD.exists() else {})
    old = record["wheels"]
    environments = read_environments()
    wheels = {wheel.sha256: wheel for environment in environments for wheel in environment.wheels}
    new = [wheel for sha256, wheel in wheels.items() if sha256 not in old]
    seen = {sha256: old[sha256] for sha256 in wheels if sha256 in old}
    with tempfile.TemporaryDirectory() as folder:
        for number, wheel in enumerate(new, start=1):
            print(f"elf: {number} of {len(new)}: {wheel.file}", file=sys.stderr)
            copy = Path(folder) / "wheel"
            fetch(wheel, copy)
            seen[wheel.sha256] = {"file": wheel.file, **read_wheel(copy)}
            copy.unlink()
            # What was read is kept, should a later download fail.
            _write_record({**record, "wheels": {**old, **seen}})
    overrides = read_overrides()
    record["environments"] = {
        environment.name: links(environment, seen, overrides) for environment in environments
    }
    with ThreadPoolExecutor(12) as pool:
        listed = tqdm(
            pool.map(installed_files, wheels.values()),
            desc="lists of files",
            total=len(wheels),
            leave=False,
            disable=None,
        )
        files = dict(zip(wheels, listed, strict=True))
    record["collisions"] = {
        environment.name: collisions(environment, files) for environment in environments
    }
    _write_record({**record, "wheels": seen})


def collisions(
    environment: Environment, files: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """The files that several wheels of an environment bring with other contents.

    Args:
        environment: The environment.
        files: By SHA-256 of a wheel, its files with what tells their contents.

    Returns:
        By file, relative to the environment, the packages that bring it.
    """
    brought: dict[str, dict[str, str]] = {}
    for wheel in environment.wheels:
        for name, content in files[wheel.sha256].items():
            brought.setdefault(name, {})[wheel.name] = content
    return {
        name: sorted(contents)
        for name, contents in sorted(brought.items())
        if len(set(contents.values())) > 1
    }


def _write_record(record: Mapping[str, Any]) -> None:
    """One wheel a line, by file name, so that a change of one is a change of one line."""
    wheels, environments = record["wheels"], record["environments"]
    by_file = dict(sorted(wheels.items(), key=lambda item: (item[1]["file"], item[0])))
    parts = {
        "inputs": _lines(read_inputs(), 1),
        "collisions": _lines(record["collisions"], 1),
        "environments": _object(
            {key: _lines(linked, 2) for key, linked in environments.items()}, 1
        ),
        "wheels": _lines(by_file, 1),
    }
    RECORD.write_text(_object(parts, 0) + "\n")


def _lines(content: Mapping[str, Any], depth: int) -> str:
    """A JSON object with a line for each value."""
    return _object({key: json.dumps(value) for key, value in content.items()}, depth)


def _object(content: Mapping[str, str], depth: int) -> str:
    """A JSON object of values that are JSON already."""
    if not content:
        return "{}"
    indent = "  " * depth
    lines = ",\n".join(f"{indent}  {json.dumps(key)}: {content[key]}" for key in content)
    return f"{{\n{lines}\n{indent}}}"


def links(
    environment: Environment, seen: Mapping[str, Any], overrides: Overrides
) -> dict[str, dict[str, Any]]:
    """What wheels.nix has to know of each wheel of an environment that holds ELF files.

    Returns:
        By package: the `wheels` that it is linked to, of those that it depends on or that an
        override names, whether it is linked to the GPU `driver`, and the `folders` of its own
        libraries, relative to where it is installed.

    Raises:
        ElfError: Two wheels hold a file of the name that a third needs.
    """
    links_of: dict[str, dict[str, Any]] = {}
    for wheel in environment.wheels:
        entry = seen[wheel.sha256]
        if not entry["needs"] and not entry["provides"]:
            continue
        stated = overrides.of(wheel.name, "links")
        below = environment.below(wheel.name).union(stated, *map(environment.below, stated))
        linked: set[str] = set()
        for library in entry["needs"]:
            if library in _given(wheel, overrides) or overrides.absent(wheel.name, library):
                continue
            holders = [
                holder.name
                for holder in environment.wheels
                if holder.name in below and library in seen[holder.sha256]["provides"]
            ]
            if len(holders) > 1:
                raise ElfError(
                    f"{wheel.name} of the environment {environment.name} needs {library}, which "
                    f"is in {' and in '.join(holders)}: which of them is meant?"
                )
            linked.update(holders)
        driver = any(library in DRIVER for library in entry["needs"])
        folders = sorted(set(entry["provides"].values()))
        links_of[wheel.name] = {"driver": driver, "folders": folders, "wheels": sorted(linked)}
    return dict(sorted(links_of.items()))


def _given(wheel: Wheel, overrides: Overrides) -> set[str]:
    """The libraries that a wheel finds in nixpkgs."""
    added = (overrides.libraries[package] for package in overrides.of(wheel.name, "libraries"))
    return {
        *GLIBC,
        *(MANYLINUX if wheel.manylinux else ()),
        *(name for names in added for name in names),
    }


@dataclass
class Tally:
    """What a check went through."""

    wheels: set[str] = field(default_factory=set)
    needs: int = 0
    used: set[tuple[str, str, str]] = field(default_factory=set)
    """The overrides that are needed: wheel, key, value."""

    def __str__(self) -> str:
        absent: dict[str, list[str]] = {}
        for name, key, value in sorted(self.used):
            if key == "absent":
                absent.setdefault(name, []).append(value)
        lines = [f"left out on purpose, {name}: {' '.join(absent[name])}" for name in absent]
        count = f"elf: {len(self.wheels)} wheels with ELF files, {self.needs} needs"
        return "\n".join([*lines, f"{count}, all met but those left out on purpose"])


def check(
    environments: Sequence[Environment],
    record: Mapping[str, Any],
    overrides: Overrides,
    inputs: Mapping[str, str],
) -> Tally:
    """Hold locks, record and overrides against each other.

    Raises:
        ElfError: They do not fit: a wheel that was not read or is locked no more, a need that
            nothing meets, an override that nothing needs.
    """
    locked = {
        wheel.sha256: wheel.file for environment in environments for wheel in environment.wheels
    }
    seen = record["wheels"]
    _refuse(
        "the record was made for other flake inputs than those of flake.lock",
        [
            name
            for name in {**inputs, **record["inputs"]}
            if inputs.get(name) != record["inputs"].get(name)
        ],
        "make lock; with another nixpkgs, hold GLIBC and MANYLINUX in this script against it",
    )
    _refuse(
        "the record does not fit the locks",
        [f"not read yet: {locked[key]}" for key in locked if key not in seen]
        + [f"locked no more: {seen[key]['file']}" for key in seen if key not in locked],
        "make lock",
    )
    _refuse(
        "the links of the record are not those of its wheels",
        [
            environment.name
            for environment in environments
            if links(environment, seen, overrides) != record["environments"].get(environment.name)
        ],
        "make lock",
    )
    tally = Tally()
    unmet = [
        line
        for environment in environments
        for line in _unmet(environment, record, overrides, tally)
    ]
    file = OVERRIDES.relative_to(ROOT)
    hint = f"say where they come from in {file}, and why"
    _refuse("wheels need libraries that nothing provides", unmet, hint)
    collided = {name for collided_files in record["collisions"].values() for name in collided_files}
    _refuse(
        "wheels of one environment bring the same file with other contents",
        [
            f"{environment}: {name}: {', '.join(packages)}"
            for environment, collided_files in record["collisions"].items()
            for name, packages in collided_files.items()
            if name not in overrides.collisions
        ],
        f"if either will do, add it to [collisions] in {file}, and why",
    )
    idle = [" ".join(entry) for entry in overrides.entries() if entry not in tally.used]
    idle += [f"collisions {name}" for name in overrides.collisions if name not in collided]
    _refuse("there are overrides that no wheel needs", idle, f"remove them from {file}")
    return tally


def _refuse(problem: str, lines: Sequence[str], hint: str) -> None:
    """Raise an `ElfError` if there are lines."""
    if lines:
        listing = "\n            ".join(sorted(set(lines)))
        raise ElfError(f"{problem}\n  found:    {listing}\n  hint:     {hint}")


def _unmet(
    environment: Environment, record: Mapping[str, Any], overrides: Overrides, tally: Tally
) -> list[str]:
    """The needs of an environment's wheels that nothing meets; `tally` counts the others."""
    unmet: list[str] = []
    seen = record["wheels"]
    digests = {wheel.name: wheel.sha256 for wheel in environment.wheels}
    built = environment.dependencies.keys() - digests.keys()
    tally.used |= {entry for entry in overrides.entries("build_system") if entry[0] in built}
    for wheel in environment.wheels:
        linked = record["environments"][environment.name].get(wheel.name)
        if linked is None:
            continue
        tally.wheels.add(wheel.file)
        given = _given(wheel, overrides) | set(DRIVER if linked["driver"] else ())
        for dependency in linked["wheels"]:
            given.update(seen[digests[dependency]]["provides"])
        needs: dict[str, str] = seen[wheel.sha256]["needs"]
        tally.needs += len(needs)
        for library, file in needs.items():
            pattern = overrides.absent(wheel.name, library)
            if pattern is not None:
                tally.used.add((wheel.name, "absent", pattern))
            elif library not in given:
                unmet.append(f"{environment.name}: {wheel.name} needs {library} ({file})")
        for name, key, value in overrides.entries():
            if name == wheel.name and (
                (key == "libraries" and needs.keys() & set(overrides.libraries[value]))
                or (key == "links" and value in linked["wheels"])
                or (key == "opens" and value in {*digests, "driver"})
            ):
                tally.used.add((name, key, value))
    return unmet


def main() -> int:
    """Parse the arguments and do one action."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("scan", "check"))
    arguments = parser.parse_args()
    try:
        if arguments.action == "scan":
            scan()
        print(check(read_environments(), read_record(), read_overrides(), read_inputs()))
    except (ElfError, LockError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {' '.join(error.cmd)}\n{error.stderr}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
