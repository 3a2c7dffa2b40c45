"""What the tests share: the embedded pair, and one conversion of it that all of them read."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import measured
from conversion import Conversion, Pico, convert
from project_copy import QUICK, ProjectCopy
from scion.artifacts.environments import interpreter
from scion.artifacts.release_layout import RELEASE
from scion.engines.config import Serving
from scion.engines.processes import VARIABLE
from scion.engines.vllm.server import share_forks
from shared import made_once

PROJECT = Path(__file__).parent.parent


# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is not a failure; in CI the same examples are tried each time.
settings.register_profile(
    "scion",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("scion")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this project's tests."""
    parser.addoption(
        "--every-step",
        action="store_true",
        help="kill stages at each step of their way, not at some (test_store_kills.py; minutes)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who starts servers has `forks` first, before fixtures that hold one."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("serve"):
            item.fixturenames.insert(0, "forks")


@pytest.fixture(scope="session")
def pico() -> Pico:
    """The embedded pair. Its folders are read, never written."""
    return Pico(PROJECT / "resources/pico")


@pytest.fixture(scope="session")
def conversion(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The artifacts of the conversion stages, made once. Read them; break only copies of them."""
    made = made_once(tmp_path_factory, "conversion", lambda folder: convert(pico, folder))
    return Conversion.open(made)


@pytest.fixture(scope="session")
def mixed(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The same with all attention in FP8."""

    def make(folder: Path) -> None:
        convert(pico, folder, use_fp8="attention")

    return Conversion.open(made_once(tmp_path_factory, "mixed", make))


@pytest.fixture(scope="session")
def weights_alone(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The same with NVFP4 of weights alone."""

    def make(folder: Path) -> None:
        convert(pico, folder, activations="bf16")

    return Conversion.open(made_once(tmp_path_factory, "weights-alone", make))


@pytest.fixture(scope="session")
def sealed_release(conversion: Conversion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed release of it, with measurements as they look. Read it."""

    def make(folder: Path) -> None:
        # Drawing the card's pictures imports matplotlib.
        from sealed import sealed

        sealed(conversion, folder, measured.results())

    return made_once(tmp_path_factory, "sealed", make) / RELEASE


@pytest.fixture(scope="session")
def release(conversion: Conversion) -> Path:
    """The folder of a grafted NVFP4 checkpoint, complete but for its card."""
    return conversion.folder / "graft_mtp"


@pytest.fixture(scope="session")
def converted_project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """A project in which the conversion stages have run, as `QUICK` configures it. Copy it."""

    def make(folder: Path) -> None:
        project = ProjectCopy.make(folder)
        project.configure(QUICK)
        stages = ("--until", "verify_release", "fetch_base")
        done = project.run("snakemake", "--cores", "all", "--configfile", QUICK, *stages)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]

    return ProjectCopy(made_once(tmp_path_factory, "project", make))


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One import of vLLM for all servers of these tests, as a run of the workflow has it."""
    log = tmp_path_factory.mktemp("forks") / "imports.log"
    with pytest.MonkeyPatch.context() as patch:
        # What `share_forks` sets is taken back.
        patch.setenv(VARIABLE, "")
        share_forks(PROJECT / interpreter("envs/serve-cpu"), Serving(), log)
        yield
