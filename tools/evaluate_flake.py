"""Evaluate the whole flake with a real nixpkgs, and have Nix fetch one locked wheel.

    SCION_NIX=NIX SCION_FLAKE_INPUTS=FOLDER .venv/bin/python tools/evaluate_flake.py [--output FILE]

Where Nix can download, `nix flake check` does more. This is for where it can't: it takes Nix from
2.18 on and a folder with a tree by the name of each flake input (nixpkgs, pyproject-nix, uv2nix,
pyproject-build-systems). It runs `nix flake check --no-build`, tells the derivation of every output
and whether the trees are those of flake.lock, makes a folder from the template, holds the wheels
that uv2nix chooses against those that tools/elf_needs.py read, and realises the smallest wheel: its
store path has to be the one that the flake expects. The result is JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import elf_needs
import lock
import setup_nix
from elf_needs import Environment
from elf_wheels import Wheel
from lock import ROOT

VARIABLE = "SCION_FLAKE_INPUTS"
SYSTEM = "x86_64-linux"
_SETTINGS = "experimental-features = nix-command flakes\nfsync-metadata = false\nsubstituters =\n"
OUTPUTS = f"""
let
  flake = builtins.getFlake "FLAKE";
in
{{
  packages = builtins.mapAttrs (_: each: each.drvPath) flake.packages.{SYSTEM};
  devShells = builtins.mapAttrs (_: each: each.drvPath) flake.devShells.{SYSTEM};
  checks = builtins.mapAttrs (_: each: each.drvPath) flake.checks.{SYSTEM};
  apps = builtins.mapAttrs (_: each: each.program) flake.apps.{SYSTEM};
  templates = builtins.mapAttrs (_: each: each.description) flake.templates;
}}
"""
# The packages of each environment, from the expressions that the flake itself is made of.
_WHEELS = """
let
  flake = builtins.getFlake "FLAKE";
  inherit (flake.inputs.nixpkgs) lib;
  environments = import "${flake}/envs/nix/environments.nix" {
    inherit (flake) inputs;
    inherit lib;
    pkgs = flake.inputs.nixpkgs.legacyPackages.SYSTEM;
  };
  source = package: {
    file = package.src.name;
    hash = package.src.outputHash;
    path = package.src.outPath;
  };
in
lib.mapAttrs (
  name: packages: lib.genAttrs packages (package: source environments.sets.${name}.${package})
) (builtins.fromJSON ''PACKAGES'')
"""
_FETCH = 'import <nix/fetchurl.nix> {{ url = "{url}"; hash = "{hash}"; name = "{file}"; }}'


class EvaluationError(Exception):
    """What is not as it should be; the text says what."""


def run_nix(*arguments: str) -> str:
    """What the Nix of SCION_NIX prints.

    Raises:
        EvaluationError: It failed.
    """
    command = [str(setup_nix.find_nix()), *arguments]
    settings = _SETTINGS + os.environ.get("NIX_CONFIG", "")
    environment = {**os.environ, "NIX_CONFIG": settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise EvaluationError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def evaluate_expression(expression: str) -> Any:
    """The value of an expression, by way of JSON."""
    return json.loads(run_nix("eval", "--offline", "--impure", "--json", "--expr", expression))


def store_inputs(folder: Path) -> dict[str, str]:
    """The store paths of the inputs' trees: hashed once, not by each evaluation.

    Raises:
        EvaluationError: A tree is not there.
    """
    names = list(elf_needs.read_inputs())
    if missing := [name for name in names if not (folder / name).is_dir()]:
        raise EvaluationError(
            f"there is no tree of {', '.join(missing)}\n  where:    {folder}\n"
            f"  hint:     {VARIABLE} is a folder with a tree by the name of each input"
        )
    paths: dict[str, str] = {}
    for name in names:
        print(f"evaluate: {name} into the store", file=sys.stderr)
        paths[name] = run_nix(
            "store", "add", "--name", "source", str((folder / name).resolve())
        ).strip()
    return paths


def copy_flake(folder: Path, inputs: dict[str, str]) -> str:
    """The files that git tracks, with a flake.lock that names the trees; returns the flake."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    names = [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]
    folder.mkdir(exist_ok=True)
    copy = ["cp", "--parents", "--target-directory", str(folder), *names]
    subprocess.run(copy, cwd=ROOT, check=True)
    overrides = [("--override-input", name, f"path:{path}") for name, path in inputs.items()]
    words = [word for override in overrides for word in override]
    run_nix("flake", "lock", "--offline", f"path:{folder}", *words)
    return f"path:{folder}"


def choices(
    flake: str, environments: Sequence[Environment]
) -> dict[str, dict[str, dict[str, str]]]:
    """What uv2nix has chosen: file, hash and store path, by environment and package.

    Raises:
        EvaluationError: A wheel is not the one whose ELF files were read.
    """
    packages = {
        environment.name: [wheel.name for wheel in environment.wheels]
        for environment in environments
    }
    expression = _WHEELS.replace("FLAKE", flake).replace("SYSTEM", SYSTEM)
    expression = expression.replace("PACKAGES", json.dumps(packages))
    chosen = evaluate_expression(expression)
    differing = [
        f"{environment.name}: {chosen[environment.name][wheel.name]}, "
        f"read: {wheel.file} {wheel.sha256}"
        for environment in environments
        for wheel in environment.wheels
        if chosen[environment.name][wheel.name]["hash"]
        not in (wheel.sha256, _integrity(wheel.sha256))
    ]
    if differing:
        raise EvaluationError("uv2nix chooses other wheels\n  " + "\n  ".join(differing))
    return chosen


def template_apps(flake: str) -> dict[str, str]:
    """The programs of a folder that `nix flake new --template` made, by app."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "release")
        run_nix("flake", "new", "--offline", "--template", flake, str(folder))
        file = folder / "flake.nix"
        file.write_text(file.read_text().replace("git+file:///path/to/scion", flake))
        expression = "builtins.mapAttrs (_: app: app.program)"
        apps = f"path:{folder}#apps.{SYSTEM}"
        return json.loads(run_nix("eval", "--offline", "--json", apps, "--apply", expression))


def _integrity(sha256: str) -> str:
    """A digest in Nix's other form."""
    return f"sha256-{base64.b64encode(bytes.fromhex(sha256)).decode()}"


def realise(wheel: Wheel, expected: str) -> str:
    """Have Nix fetch a wheel from this machine's index; returns its store path.

    Raises:
        EvaluationError: It is another path than the flake expects.
    """
    expression = _FETCH.format(url=wheel.url, hash=f"sha256:{wheel.sha256}", file=wheel.file)
    built = run_nix("build", "--impure", "--no-link", "--print-out-paths", "--expr", expression)
    if built.strip() != expected:
        raise EvaluationError(f"{wheel.file}: expected {expected}, realised {built.strip()}")
    return built.strip()


def evaluate(folder: Path) -> dict[str, Any]:
    """Everything that the head of this file promises.

    Args:
        folder: The trees of the flake's inputs, by name.

    Raises:
        EvaluationError: Something does not evaluate, or is not as it should be.
    """
    lock.expand_all()
    environments = elf_needs.read_environments()
    inputs = store_inputs(folder)
    with tempfile.TemporaryDirectory() as name:
        flake = copy_flake(Path(name), inputs)
        print("evaluate: nix flake check --no-build", file=sys.stderr)
        run_nix("flake", "check", "--no-build", "--offline", flake)
        outputs = evaluate_expression(OUTPUTS.replace("FLAKE", flake))
        print("evaluate: a folder made from the template", file=sys.stderr)
        template = template_apps(flake)
        print("evaluate: the wheels of every environment", file=sys.stderr)
        chosen = choices(flake, environments)
    wheels = [wheel for environment in environments for wheel in environment.wheels]
    smallest = min(wheels, key=lambda wheel: wheel.size)
    path = next(
        packages[smallest.name]["path"] for packages in chosen.values() if smallest.name in packages
    )
    version = (folder / "nixpkgs/lib/.version").read_text().strip()
    locked = elf_needs.read_inputs()
    return {
        "nix": run_nix("--version").strip(),
        "nixpkgs": version,
        "inputs": {
            name: {
                "locked": locked[name],
                "evaluated": run_nix("hash", "path", inputs[name]).strip(),
            }
            for name in inputs
        },
        "outputs": outputs,
        "template": template,
        "wheels": {name: len(packages) for name, packages in chosen.items()},
        "realised": {
            "file": smallest.file,
            "expected": path,
            "found": realise(smallest, path),
        },
    }


def main() -> int:
    """Parse the arguments, evaluate, and write what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="a file for the JSON, instead of the output")
    arguments = parser.parse_args()
    folder = os.environ.get(VARIABLE)
    if not folder or setup_nix.find_nix() is None:
        print(f"error: name Nix in SCION_NIX, and the trees in {VARIABLE}", file=sys.stderr)
        return 2
    try:
        record = json.dumps(evaluate(Path(folder)), indent=2)
    except (EvaluationError, lock.LockError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.output:
        arguments.output.write_text(record + "\n")
    else:
        print(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
