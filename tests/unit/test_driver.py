"""envs/nix/driver.sh: the GPU driver's libraries of a host, and no other library of it."""

import os
import subprocess
from pathlib import Path

import pytest

from lock import ROOT

SHOW = 'source "$1"; echo "$LD_LIBRARY_PATH|${TRITON_LIBCUDA_PATH-}"; declare -F; true'


def source(**variables: str) -> tuple[list[str], str]:
    """LD_LIBRARY_PATH and TRITON_LIBCUDA_PATH after sourcing it, and what it said."""
    environment = {**os.environ, "LD_LIBRARY_PATH": "", **variables}
    environment.pop("TRITON_LIBCUDA_PATH", None)
    command = ["bash", "-euo", "pipefail", "-c", SHOW, "bash", str(ROOT / "envs/nix/driver.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "_scion_driver" not in done.stdout
    return done.stdout.strip().split("|"), done.stderr


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host's folder of libraries, with a driver in it."""
    folder = tmp_path / "usr/lib"
    folder.mkdir(parents=True)
    for name in ("libcuda.so.570.1", "libnvidia-ml.so.570.1", "libnvidia-nvvm.so.4", "libc.so.6"):
        (folder / name).write_text(name)
    (folder / "libcuda.so.1").symlink_to("libcuda.so.570.1")
    (folder / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.570.1")
    (folder / "libstdc++.so.6").write_text("")
    return folder


def test_only_the_driver_is_linked(host: Path, tmp_path: Path) -> None:
    (path, triton), errors = source(SCION_DRIVER_LIB=str(host), XDG_CACHE_HOME=str(tmp_path))
    assert errors == ""
    assert path == triton == str(tmp_path / "scion/driver/libcuda.so.570.1")
    assert [file.name for file in Path(path).parent.iterdir()] == ["libcuda.so.570.1"]
    linked = {link.name: link.resolve().name for link in Path(path).iterdir()}
    assert linked == {
        "libcuda.so.1": "libcuda.so.570.1",
        "libcuda.so.570.1": "libcuda.so.570.1",
        "libnvidia-ml.so.1": "libnvidia-ml.so.570.1",
        "libnvidia-ml.so.570.1": "libnvidia-ml.so.570.1",
        "libnvidia-nvvm.so.4": "libnvidia-nvvm.so.4",
    }


def test_a_new_driver_stands_beside_the_old(host: Path, tmp_path: Path) -> None:
    (old, _), _ = source(SCION_DRIVER_LIB=str(host), XDG_CACHE_HOME=str(tmp_path))
    (host / "libcuda.so.580.2").write_text("")
    (host / "libcuda.so.1").unlink()
    (host / "libcuda.so.1").symlink_to("libcuda.so.580.2")
    (new, _), _ = source(SCION_DRIVER_LIB=str(host), XDG_CACHE_HOME=str(tmp_path))
    assert (Path(old) / "libcuda.so.1").resolve() == host / "libcuda.so.570.1"
    assert (Path(new) / "libcuda.so.1").resolve() == host / "libcuda.so.580.2"


def test_links_that_lead_nowhere_are_made_anew(host: Path, tmp_path: Path) -> None:
    (path, _), _ = source(SCION_DRIVER_LIB=str(host), XDG_CACHE_HOME=str(tmp_path))
    # The same version at another place, as after an update of the kernel.
    moved = host.rename(host.with_name("lib-of-another-kernel"))
    (again, _), _ = source(SCION_DRIVER_LIB=str(moved), XDG_CACHE_HOME=str(tmp_path))
    assert again == path
    assert (Path(again) / "libcuda.so.1").resolve() == moved / "libcuda.so.570.1"
    assert [file.name for file in Path(path).parent.iterdir()] == ["libcuda.so.570.1"]


def test_what_was_on_the_path_stays_behind_it(host: Path, tmp_path: Path) -> None:
    (path, _), _ = source(
        SCION_DRIVER_LIB=str(host), XDG_CACHE_HOME=str(tmp_path), LD_LIBRARY_PATH="/mine"
    )
    assert path == f"{tmp_path}/scion/driver/libcuda.so.570.1:/mine"


def test_empty_leaves_the_driver_out(tmp_path: Path) -> None:
    assert source(SCION_DRIVER_LIB="", XDG_CACHE_HOME=str(tmp_path)) == (["", ""], "")


def test_a_folder_without_driver_is_told(tmp_path: Path) -> None:
    shown, errors = source(SCION_DRIVER_LIB=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert shown == ["", ""]
    assert f"no libcuda.so.1 in SCION_DRIVER_LIB={tmp_path}" in errors
