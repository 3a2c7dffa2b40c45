"""Scion as its users install it: its wheel, and what that requires, in a virtual environment.

    light = install(build_wheel(folder), folder / "light")
    light.run("lint", checkpoint)

The wheel is built and installed by the locked uv, without a network. What it requires is not
downloaded: those distributions of this environment, and no other, are linked into the new one.
"""

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lock import ROOT, TOOLS, uv_environment


@dataclass(frozen=True)
class Install:
    """A virtual environment with Scion in it."""

    folder: Path
    wheel: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin/python"

    @property
    def packages(self) -> Path:
        """Where its modules are."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def run(
        self, *arguments: object, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `scion` with nothing of the surroundings but its environment's own modules."""
        return subprocess.run(
            [str(self.folder / "bin/scion"), *map(str, arguments)],
            cwd=cwd or self.folder,
            env=outside() | environment,
            capture_output=True,
            text=True,
        )


def outside() -> dict[str, str]:
    """The variables of this process, but for those that lead Python or uv elsewhere."""
    kept = {name: value for name, value in uv_environment().items() if name != "PYTHONPATH"}
    return kept | {"UV_OFFLINE": "1"}


def build_wheel(folder: Path) -> Path:
    """Build this project's wheel into a folder."""
    _uv("build", "--wheel", "--quiet", "--out-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path, *, extra: str = "") -> Install:
    """Install a wheel into a new environment, with what it requires, alone or with an extra."""
    venv.create(folder, symlinks=True, with_pip=False)
    made = Install(folder, wheel)
    _uv("pip", "install", "--quiet", "--no-deps", "--python", made.python, wheel)
    (metadata,) = made.packages.glob("scion-*.dist-info")
    for needed in required(Distribution.at(metadata), extra):
        for name in sorted({Path(file).parts[0] for file in needed.files or ()}):
            source, target = Path(str(needed.locate_file(name))), made.packages / name
            if name.endswith(".dist-info"):
                # uv overlooks one that is a link.
                shutil.copytree(source, target)
            # Commands lie elsewhere, and caches of compiled modules are several packages'.
            elif name not in ("..", "__pycache__"):
                target.symlink_to(source)
    _uv("pip", "check", "--quiet", "--python", made.python)
    return made


def required(package: Distribution, *extras: str) -> list[Distribution]:
    """The installed distributions that a package needs, however far down; not its own."""
    found: dict[str, Distribution] = {}
    waiting = list(_requirements(package, extras))
    while waiting:
        requirement = waiting.pop()
        needed = distribution(requirement.name)
        if found.setdefault(canonicalize_name(requirement.name), needed) is needed:
            waiting += _requirements(needed, requirement.extras)
    return list(found.values())


def _requirements(package: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    """What a package asks for itself, here and with these extras."""
    for text in package.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _uv(*arguments: object) -> None:
    command = [str(TOOLS / "bin/uv"), *map(str, arguments)]
    subprocess.run(command, env=outside(), check=True)
