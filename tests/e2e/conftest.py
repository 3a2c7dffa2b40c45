"""What tests of the workflow share: a project with two configurations' releases in it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversion import SAMPLES
from project_copy import ProjectCopy
from shared import made_once
from two_releases import FEWER, MORE, contents, run, verify


@pytest.fixture(scope="session")
def whole(converted_project: ProjectCopy, tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """A project in which both configurations were made, FEWER last. Copy it."""

    def make(folder: Path) -> None:
        project = converted_project.copy(folder)
        project.configure(MORE, samples=SAMPLES + 1)
        for name in (MORE, FEWER):
            run(project, name)
            (folder / f"{name}.contents").write_text(json.dumps(contents(project)))

    return ProjectCopy(made_once(tmp_path_factory, "two-releases", make))


@pytest.fixture(scope="session")
def right(whole: ProjectCopy) -> dict[str, dict[str, str]]:
    """By configuration and stage, the contents that undisturbed runs give."""
    found = {
        name: json.loads((whole.folder / f"{name}.contents").read_text()) for name in (MORE, FEWER)
    }
    assert found[MORE]["quantize_nvfp4"] != found[FEWER]["quantize_nvfp4"]
    return found


@pytest.fixture
def project(
    whole: ProjectCopy, right: dict[str, dict[str, str]], tmp_path: Path
) -> Iterator[ProjectCopy]:
    """A copy of that project, FEWER's release in it; sources and all are its own."""
    copy = whole.copy(tmp_path / "project")
    yield copy
    verify(copy)
