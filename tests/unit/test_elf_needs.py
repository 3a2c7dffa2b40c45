"""The needs of wheels under Nix: read off real ELF files, and held against locks and overrides."""

import copy
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import elf_needs
from elf_needs import Environment, Overrides, check
from elf_wheels import (
    ElfError,
    Wheel,
    fetch,
    installed_files,
    installed_folder,
    locked_wheels,
    read_wheel,
)
from lock import ROOT

ENVIRONMENTS = elf_needs.read_environments()
READ_OFF = ("absent", "libraries", "links")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def record() -> dict[str, Any]:
    return copy.deepcopy(elf_needs.read_record())


@pytest.fixture
def overrides() -> Overrides:
    return elf_needs.read_overrides()


def problem(record: dict[str, Any], overrides: Overrides, environments=ENVIRONMENTS) -> str:
    with pytest.raises(ElfError) as error:
        check(environments, record, overrides, elf_needs.read_inputs())
    return str(error.value)


def test_every_need_is_met(record: dict[str, Any], overrides: Overrides) -> None:
    tally = check(ENVIRONMENTS, record, overrides, elf_needs.read_inputs())
    assert len(tally.wheels) > 100
    assert tally.needs > 1000
    assert tally.used == set(overrides.entries())
    assert set(record["environments"]) == {environment.name for environment in ENVIRONMENTS}


class TestDrift:
    """What is changed by hand, or by a lock, without the rest."""

    def test_another_wheel_is_locked(self, record: dict[str, Any], overrides: Overrides) -> None:
        first, *others = ENVIRONMENTS
        torch = next(wheel for wheel in first.wheels if wheel.name == "torch")
        pinned = replace(torch, sha256="0" * 64, file="torch-9.9-cp312-cp312-linux_x86_64.whl")
        wheels = [pinned if wheel is torch else wheel for wheel in first.wheels]
        text = problem(record, overrides, [replace(first, wheels=wheels), *others])
        assert "not read yet: torch-9.9-cp312-cp312-linux_x86_64.whl" in text
        assert "make lock" in text

    def test_a_wheel_is_locked_no_more(self, record: dict[str, Any], overrides: Overrides) -> None:
        *others, last = ENVIRONMENTS
        assert "locked no more: " in problem(record, overrides, others), last.name

    def test_another_nixpkgs_is_locked(self, record: dict[str, Any], overrides: Overrides) -> None:
        record["inputs"]["nixpkgs"] = record["inputs"]["nixpkgs"].replace("sha256-", "sha256-A")
        text = problem(record, overrides)
        assert "other flake inputs" in text
        assert "found:    nixpkgs\n" in text

    # No header says what is opened by name, nor what builds a package.
    @pytest.mark.parametrize(
        ("wheel", "key", "value"),
        [entry for entry in elf_needs.read_overrides().entries() if entry[1] in READ_OFF],
    )
    def test_an_override_is_gone(
        self, wheel: str, key: str, value: str, record: dict[str, Any], overrides: Overrides
    ) -> None:
        entry = dict(overrides.wheels[wheel])
        entry[key] = [listed for listed in entry[key] if listed != value]
        overrides.wheels = {**overrides.wheels, wheel: entry}
        text = problem(record, overrides)
        if key == "links":
            assert "the links of the record are not those of its wheels" in text
        else:
            assert "wheels need libraries that nothing provides" in text
            assert f"{wheel} needs " in text
            assert "envs/nix/wheels.toml" in text

    @pytest.mark.parametrize(
        ("wheel", "key", "value"),
        [
            ("torch", "absent", "libnothing.so.1"),
            ("numba", "libraries", "numactl"),
            ("triton", "links", "numpy"),
            ("tilelang", "opens", "nothing"),
            ("numpy", "build_system", "setuptools"),
            ("not-locked", "absent", "libibverbs.so.1"),
        ],
    )
    def test_an_override_is_needless(
        self, wheel: str, key: str, value: str, record: dict[str, Any], overrides: Overrides
    ) -> None:
        entry = overrides.wheels.get(wheel, {})
        changed = {**entry, key: [*entry.get(key, []), value]}
        overrides.wheels = {**overrides.wheels, wheel: changed}
        text = problem(record, overrides)
        assert "overrides that no wheel needs" in text
        assert f"{wheel} {key} {value}" in text

    def test_a_collision_is_not_explained(
        self, record: dict[str, Any], overrides: Overrides
    ) -> None:
        record["collisions"]["root"]["bin/tool"] = ["one", "other"]
        text = problem(record, overrides)
        assert "wheels of one environment bring the same file with other contents" in text
        assert "found:    root: bin/tool: one, other\n" in text

    def test_a_collision_is_no_more(self, record: dict[str, Any], overrides: Overrides) -> None:
        overrides.collisions = {**overrides.collisions, "bin/tool": "either will do"}
        assert "found:    collisions bin/tool\n" in problem(record, overrides)

    def test_a_link_is_edited(self, record: dict[str, Any], overrides: Overrides) -> None:
        record["environments"]["root"]["torch"]["wheels"].remove("nvidia-cublas")
        assert "the links of the record" in problem(record, overrides)

    def test_a_need_is_edited(self, record: dict[str, Any], overrides: Overrides) -> None:
        torch = next(wheel for wheel in ENVIRONMENTS[0].wheels if wheel.name == "torch")
        record["wheels"][torch.sha256]["needs"]["libnew.so.1"] = "torch/lib/libnew_user.so"
        assert "torch needs libnew.so.1 (torch/lib/libnew_user.so)" in problem(record, overrides)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"absent": ["libx.so"]}, "overrides have no reason\n  found:    torch\n"),
        ({"libraries": ["zlib"], "reason": "needs it"}, "found:    torch: zlib\n"),
    ],
)
def test_an_override_that_is_not_whole_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ElfError, match=re.escape(message)):
        Overrides({"libraries": {}, "wheels": {"torch": entry}, "collisions": {}})


def test_files_of_one_name_collide_if_their_contents_differ() -> None:
    wheels = [Wheel(name, f"{name}.whl", "", 0, name) for name in "abc"]
    files = {
        "a": {"bin/tool": "a:main", "lib/same": "sha256=1", "lib/own": "sha256=2"},
        "b": {"bin/tool": "b:main", "lib/same": "sha256=1"},
        "c": {"lib/same": "sha256=1"},
    }
    environment = Environment("x", wheels, {})
    assert elf_needs.collisions(environment, files) == {"bin/tool": ["a", "b"]}


@contextmanager
def served(folder: Path, handler: type[SimpleHTTPRequestHandler]) -> Generator[str]:
    """The address of a server of a folder's files, with its last slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder))
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class RangeHandler(QuietHandler):
    """Serves parts of files, as indexes do."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = int(last) + 1 if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:end])


def test_the_files_of_a_wheel_are_listed_from_a_part_of_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("a/large.bin", os.urandom(1_000_000))
        archive.writestr("a-1.dist-info/entry_points.txt", "[console_scripts]\nTool = a:main\n")
        record = "a/large.bin,sha256=x,1000000\na-1.data/scripts/run,sha256=y,1\n"
        archive.writestr("a-1.dist-info/RECORD", f"{record}a-1.dist-info/RECORD,,\n")
    with served(tmp_path, RangeHandler) as address:
        files = installed_files(Wheel("a", "a.whl", f"{address}a.whl", 0, ""))
    assert files == {
        "lib/python3.12/site-packages/a/large.bin": "sha256=x",
        "bin/run": "sha256=y",
        "bin/Tool": "a:main",
    }


class TestDownload:
    """From a server that holds one wheel."""

    @pytest.fixture
    def wheel(self, tmp_path: Path) -> Iterator[Wheel]:
        content = b"a wheel"
        (tmp_path / "a.whl").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        with served(tmp_path, QuietHandler) as address:
            yield Wheel("a", "a.whl", f"{address}a.whl", len(content), digest)

    def test_it_is_kept_if_it_is_the_locked_one(self, wheel: Wheel, tmp_path: Path) -> None:
        fetch(wheel, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"a wheel"

    def test_its_list_of_files_needs_an_index_that_gives_parts(self, wheel: Wheel) -> None:
        with pytest.raises(ElfError, match=r"the list of files of a\.whl can't be read"):
            installed_files(wheel)

    def test_another_content_is_refused(self, wheel: Wheel, tmp_path: Path) -> None:
        with pytest.raises(ElfError, match=r"a\.whl is not the file that is locked"):
            fetch(replace(wheel, sha256="0" * 64), tmp_path / "copy")

    def test_one_that_is_not_there_is_told(self, wheel: Wheel, tmp_path: Path) -> None:
        with pytest.raises(ElfError, match=r"can't be downloaded\n  where: .*\n  found: .*404"):
            fetch(replace(wheel, url=f"{wheel.url}x"), tmp_path / "copy")


def test_two_holders_of_a_library_are_refused(record: dict[str, Any], overrides: Overrides) -> None:
    environment = ENVIRONMENTS[0]
    cufft = next(wheel for wheel in environment.wheels if wheel.name == "nvidia-cufft")
    record["wheels"][cufft.sha256]["provides"]["libcublas.so.13"] = "lib"
    with pytest.raises(ElfError, match=r"libcublas\.so\.13, which is in nvidia-cublas and in"):
        elf_needs.links(environment, record["wheels"], overrides)


def test_a_wheel_is_chosen_for_the_interpreter_of_nix() -> None:
    numpy = next(wheel for wheel in locked_wheels(Path()) if wheel.name == "numpy")
    assert "-cp312-cp312-manylinux" in numpy.file
    assert numpy.manylinux
    assert f'"{numpy.sha256}"' not in (ROOT / "uv.lock.neutral").read_text()
    assert f"sha256:{numpy.sha256}" in (ROOT / "uv.lock.neutral").read_text()


def test_only_the_version_that_holds_for_the_interpreter_counts() -> None:
    for environment in ENVIRONMENTS:
        names = [wheel.name for wheel in environment.wheels]
        assert len(names) == len(set(names)), environment.name


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_wheel_is_read(tmp_path: Path) -> None:
    """Libraries that a compiler made: one needs another of the wheel, and one from elsewhere."""

    def compile_library(name: str, *options: str) -> bytes:
        source = ["-x", "c", os.devnull]
        command = ["cc", "-shared", "-nostdlib", "-o", name, *source, "-x", "none", *options]
        subprocess.run(command, cwd=tmp_path, check=True)
        return (tmp_path / name).read_bytes()

    members = {
        "pkg/lib/libown.so.1": compile_library("libown.so.1", "-Wl,-soname,libown.so.1"),
        "gone": compile_library("libelsewhere.so.2", "-Wl,-soname,libelsewhere.so.2"),
    }
    linked = ["-Wl,--no-as-needed", "libown.so.1", "libelsewhere.so.2"]
    members["pkg/_user.cpython-312-x86_64-linux-gnu.so"] = compile_library("_user.so", *linked)
    members["pkg-1.data/data/lib/libplain.so"] = members["pkg/lib/libown.so.1"]
    members["pkg/text.so"] = b"no ELF file"
    del members["gone"]
    with zipfile.ZipFile(tmp_path / "pkg.whl", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    site = "lib/python3.12/site-packages"
    assert read_wheel(tmp_path / "pkg.whl") == {
        "needs": {"libelsewhere.so.2": "pkg/_user.cpython-312-x86_64-linux-gnu.so"},
        "provides": {"libown.so.1": f"{site}/pkg/lib", "libplain.so": "lib"},
    }


@pytest.mark.parametrize(
    ("member", "folder"),
    [
        ("numpy.libs/libgfortran.so", "lib/python3.12/site-packages/numpy.libs"),
        ("top.so", "lib/python3.12/site-packages"),
        ("a-1.data/data/lib/x/liba.so", "lib/x"),
        ("a-1.data/scripts/a", "bin"),
        ("a-1.data/platlib/a/liba.so", "lib/python3.12/site-packages/a"),
    ],
)
def test_where_a_wheel_s_files_go(member: str, folder: str) -> None:
    assert installed_folder(member) == folder


def test_an_environment_s_dependencies_are_followed_down() -> None:
    below = Environment("x", [], {"a": {"b"}, "b": {"c", "a"}, "c": set(), "d": set()}).below("a")
    assert below == {"b", "c"}
