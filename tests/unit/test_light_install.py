"""Scion's wheel with what it requires, no more: each command works, or says what it needs."""

import ast
import csv
import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from conversion import Conversion, Pico
from hub_server import NO_PROXY, HubServer
from installs import Install, build_wheel, install, required
from lock import ROOT
from scion.cli.main import command_parser
from scion.common.extras import EXTRA_OF

RELEASE = "pico-agent-nvfp4-text-mtp"
UNPINNED = ROOT / "config/releases/carnice-v2-27b-nvfp4-text-mtp.yaml"
ALONE = {"jinja2", "numpy", "packaging", "pydantic", "pyyaml"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    return install(wheel, tmp_path_factory.mktemp("light") / "environment")


@pytest.fixture(scope="module")
def with_hub(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    return install(wheel, tmp_path_factory.mktemp("hub") / "environment", extra="hub")


# What is in it


def test_the_wheel_holds_the_package_and_its_licence(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "workflow/scion"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    code = {
        name.removeprefix("workflow/") for name in listed.split("\0") if (ROOT / name).is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name for name in names if ".dist-info/" not in name} == code
    assert "scion/evaluation/agent/agent_tasks.yaml" in code
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_it_requires_five_packages(light: Install) -> None:
    (installed,) = light.packages.glob("scion-*.dist-info")
    needed = [Requirement(text) for text in Distribution.at(installed).requires or ()]
    assert {each.name for each in needed if each.marker is None} == ALONE


def test_the_workflow_has_all_that_the_others_have() -> None:
    extras = PROJECT["optional-dependencies"]
    # Snakemake itself loads what the last of them brings.
    assert set(extras) == {*EXTRA_OF.values(), "cluster"}
    assert {*extras["hub"], *extras["attest"]} < set(extras["workflow"])


# Which module is of which extra


def imported(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every import of a module that is neither Scion's nor Python's, in functions too."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - {"scion"}:
                if top not in sys.stdlib_module_names:
                    yield path, top


def brought(*requirements: str) -> set[str]:
    """The modules that requirements bring, with all that these require."""
    found: set[str] = set()
    for named in (distribution(Requirement(text).name) for text in requirements):
        for package in (named, *required(named)):
            # Its `files` would look for each of them on the disk.
            rows = csv.reader((package.read_text("RECORD") or "").splitlines())
            found |= {Path(row[0]).parts[0].removesuffix(".py") for row in rows}
    return found


def test_every_module_that_is_imported_is_required_or_has_its_extra() -> None:
    alone = brought(*PROJECT["dependencies"])
    package = ROOT / "workflow/scion"
    missing = {module for _, module in imported(package)} - alone
    assert set(EXTRA_OF) == missing
    for extra, requirements in PROJECT["optional-dependencies"].items():
        told = {module for module, name in EXTRA_OF.items() if name == extra}
        assert told <= brought(*requirements)
    of_hub = {module for _, module in imported(package / "checkpoint/hub")} - alone
    assert of_hub == {module for module, extra in EXTRA_OF.items() if extra == "hub"}


# What every command does


@dataclass(frozen=True)
class Places:
    """What the commands are run on."""

    checkpoint: Path
    release: Path
    results: Path
    store: Path
    on_hub: Path
    unpinned: Path = UNPINNED
    default: Path = ROOT / "config/default.yaml"


@pytest.fixture(scope="module")
def places(
    pico: Pico,
    conversion: Conversion,
    sealed_release: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Places:
    folder = tmp_path_factory.mktemp("places")
    results = folder / "results"
    results.mkdir()
    (results / RELEASE).symlink_to(sealed_release.parent)
    on_hub = folder / "on_hub.yaml"
    on_hub.write_text(re.sub(r"(hf://[^@\n]+)\n", rf"\1@{'0' * 40}\n", UNPINNED.read_text()))
    return Places(pico.agent, sealed_release, results, conversion.folder / ".store", on_hub)


WORKS = {
    "lint {checkpoint}": (1, "4 errors"),
    "lint --deep {checkpoint}": (1, "4 errors"),
    "lint {release} --format sarif": (0, '"2.1.0"'),
    "check {release}": (0, "files are what the manifests say"),
    "compare {release} {release}": (0, "0 apart"),
    "respell {release} --output {results}/respelled": (0, "compressed-tensors, 50 quantized"),
    "launch {release} --config {default} --gpu h100": (0, "verdict: fits"),
    "launch {release} --engine sglang": (0, "sglang"),
    "estimate {default} --gpu h100": (0, "bounded by"),
    "estimate {checkpoint}": (0, "time: not measured without torch"),
    "config": (0, "release:"),
    "config --check {default}": (0, "sound"),
    "summary {default} --results {results}": (0, "root:"),
    "explain {release} README.md": (0, "made by render_card"),
    "diff {release} {release}": (0, "the same weights: 274 tensors"),
    "store ls --store {store}": (0, "quantize_nvfp4"),
    "store du --store {store}": (0, "records"),
    "store verify --store {store}": (0, "problems: 0"),
    "store prune --dry-run --store {store}": (0, ""),
}
"""What needs no extra: by command line its exit code and a part of what it says."""

NEEDS = {
    "lint hf://a/b": "hub",
    "check hf://a/b": "hub",
    "estimate hf://a/b": "hub",
    "pin {unpinned}": "hub",
    "config --check {on_hub}": "hub",
    "acceptance {release} --prompts {default}": "workflow",
    "heal {release} --prompts {default}": "workflow",
    "audit {release}": "workflow",
    "simulate {default}": "workflow",
    "sign {release} --key {default}": "attest",
    "publish {release} owner/name": "workflow",
    "reproduce {release}": "workflow",
}
"""What needs one: by command line the extra."""


def words(line: str, places: Places) -> list[str]:
    return line.format(**vars(places)).split()


def test_every_command_is_run_here() -> None:
    (commands,) = (action for action in command_parser()._actions if action.choices)
    run = {line.split()[0] for line in (*WORKS, *NEEDS)}
    assert run == set(commands.choices or ())


@pytest.mark.parametrize("line", WORKS)
def test_a_command_works_alone(line: str, light: Install, places: Places) -> None:
    status, said = WORKS[line]
    ran = light.run(*words(line, places), cwd=ROOT)
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert said in ran.stdout
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("line", NEEDS)
def test_a_command_says_which_extra_it_needs(line: str, light: Install, places: Places) -> None:
    ran = light.run(*words(line, places), cwd=ROOT)
    said = ran.stdout + ran.stderr
    # What exits with 1 where something is wrong with a checkpoint has another code for this.
    judges = line.startswith(("lint", "audit", "reproduce"))
    assert ran.returncode == (2 if judges else 1), said
    assert "Traceback" not in said
    assert f"this needs scion's extra `{NEEDS[line]}`, which is not installed" in said
    install_line = next(row for row in said.splitlines() if "uv pip install" in row)
    command = shlex.split(install_line)
    assert command[command.index("--python") + 1] == str(light.python)
    requirement = Requirement(command[-1])
    assert (requirement.name, requirement.extras) == ("scion", {NEEDS[line]})
    assert requirement.url == light.wheel.as_uri()


def test_the_hook_of_pre_commit_judges_each_checkpoint_once(light: Install, pico: Pico) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert (hook["language"], hook["require_serial"]) == ("python", True)
    program, *words = hook["entry"].split()
    assert program == "scion"
    names = [path.name for path in pico.agent.iterdir() if re.search(hook["files"], path.name)]
    assert {"config.json", "chat_template.jinja", "model.safetensors.index.json"} < set(names)
    assert re.search(hook["files"], "models/agent/config.json")
    assert not re.search(hook["files"], "other_config.json")
    ran = light.run(*words, *(pico.agent / name for name in names))
    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.count("4 errors") == 1


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_the_command_says_of_itself_imports_nothing_that_is_installed(
    option: str, light: Install
) -> None:
    code = (
        "import json, sys\n"
        "from scion.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print(json.dumps([getattr(module, '__file__', None) or ''"
        " for name, module in sys.modules.items() if name.split('.')[0] != 'scion']))"
    )
    done = subprocess.run(
        [str(light.python), "-I", "-c", code, option], capture_output=True, text=True, check=True
    )
    files = json.loads(done.stdout.splitlines()[-1])
    assert [file for file in files if str(light.folder) in file] == []


def test_the_version_is_the_one_that_is_installed(light: Install) -> None:
    ran = light.run("--version", SCION_COMMIT="")
    assert (ran.returncode, ran.stdout) == (0, f"scion {PROJECT['version']}\n")


# With the hub


@pytest.fixture
def hub(sealed_release: Path, pico: Pico) -> Iterator[HubServer]:
    folders = {"owner/release": sealed_release, "owner/agent": pico.agent}
    with HubServer(folders) as server:
        yield server


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("lint hf://owner/agent", 1, "4 errors"),
        ("check hf://owner/release", 0, "files are what the manifests say"),
        ("estimate hf://owner/agent --gpu h100", 0, "bounded by"),
    ],
)
def test_a_repository_is_read_with_the_extra(
    line: str, status: int, said: str, with_hub: Install, hub: HubServer
) -> None:
    ran = with_hub.run(*line.split(), HF_ENDPOINT=hub.endpoint, NO_PROXY=NO_PROXY)
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert said in ran.stdout


def test_locations_are_pinned_with_the_extra(
    with_hub: Install, hub: HubServer, tmp_path: Path
) -> None:
    config = tmp_path / "release.yaml"
    config.write_text("source: hf://owner/agent\n")
    ran = with_hub.run("pin", config, HF_ENDPOINT=hub.endpoint, NO_PROXY=NO_PROXY)
    assert ran.returncode == 0, ran.stderr
    assert config.read_text() == f"source: {hub.location('owner/agent')}\n"
