"""Why `snakemake -n` says that a stage would run."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scion.artifacts import plan as planning
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.plan import Plan
from scion.artifacts.reasons import reason
from scion.artifacts.store.store import Store

SETTINGS: dict[str, Any] = {"recipe": "nvfp4_default", "sets": [{"samples": 20}]}


@dataclass
class Project:
    """A source and what is quantized of it, planned and made as the workflow does.

    Attributes:
        folder: Where all of it lies.
        source: What the source's file holds.
        location: Where the source is.
        looks: What a plan calls the source's files.
        settings: The section `quantization`.
        environment: That of quantize_nvfp4.
        files: Calibration sets; None for the one in the folder.
    """

    folder: Path
    source: str = "source"
    location: str = "a"
    looks: str = "as they are"
    settings: Mapping[str, Any] | None = None
    environment: str = "sha256:tests"
    files: tuple[Path, ...] | None = None

    @property
    def calibration(self) -> tuple[Path, ...]:
        return self.files or (self.folder / "calibration.jsonl",)

    def plan(self) -> Plan:
        plan = Plan(self.folder / "results/x", Store.open([str(self.folder / "store")]))
        fetched = {"location": self.location, "planned": self.looks}
        plan.add("fetch_source", settings=fetched, environment="sha256:tests")
        asked = json.dumps({"quantization": self.settings or SETTINGS})
        plan.add(
            "quantize_nvfp4",
            reads=["fetch_source"],
            files=self.calibration,
            settings={"settings": asked},
            environment=self.environment,
        )
        plan.add(
            "graft_mtp",
            reads=["quantize_nvfp4", "fetch_source"],
            settings={},
            environment="sha256:tests",
        )
        return plan

    def make(self) -> None:
        """Run the three stages."""
        plan = self.plan()

        def made(stage: str, text: str, environment: str, **request: Any) -> Artifact:
            def build(draft: Draft) -> None:
                (draft.folder / "file").write_text(text)

            output = Output(plan.stages[stage].pointer, plan.store)
            request = {"settings": {}, **request}
            return remake(output, stage=stage, environment=environment, build=build, **request)

        fetched = made(
            "fetch_source",
            self.source,
            "sha256:tests",
            inputs={},
            settings={"location": self.location},
        )
        # A manifest names the section's keys without the section.
        quantized = made(
            "quantize_nvfp4",
            "quantized",
            self.environment,
            inputs={
                "text": fetched,
                **{f"calibration_{n + 1}": file for n, file in enumerate(self.calibration)},
            },
            settings={**(self.settings or SETTINGS)},
        )
        inputs = {"quantized": quantized, "donor": fetched}
        made("graft_mtp", "grafted", "sha256:tests", inputs=inputs)

    def reason(self, stage: str = "quantize_nvfp4", *running: str) -> str:
        return reason(self.plan(), stage, {stage, *running})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "calibration.jsonl").write_text("{}\n")
    project = Project(tmp_path)
    project.make()
    return project


def test_a_stage_that_never_ran(tmp_path: Path) -> None:
    (tmp_path / "calibration.jsonl").write_text("{}\n")
    assert Project(tmp_path).reason("quantize_nvfp4", "fetch_source") == "not made yet"


def test_a_stage_that_is_asked_for_by_name(project: Project) -> None:
    assert project.reason() == "asked for, though it is there"


def test_a_setting_is_named_with_both_values(project: Project) -> None:
    project.settings = {"recipe": "nvfp4_default", "sets": [{"samples": 8}]}
    assert project.reason() == "quantization.sets[0].samples: 20, now 8"


@pytest.mark.parametrize("samples", [[20, 8], []])
def test_a_set_more_or_less_is_named(project: Project, samples: list[int]) -> None:
    project.settings = {
        "recipe": "nvfp4_default",
        "sets": [{"samples": count} for count in samples],
    }
    assert project.reason() == f"quantization.sets, how many: 1, now {len(samples)}"


def test_of_many_settings_some_are_named(project: Project) -> None:
    keys = [f"key_{number}" for number in range(5)]
    project.settings = dict.fromkeys(keys, 1)
    project.make()
    project.settings = dict.fromkeys(keys, 2)
    told = project.reason()
    assert told.startswith("quantization.key_0: 1, now 2; quantization.key_1: 1, now 2; ")
    assert told.endswith("; 2 more settings")


def test_a_file_an_environment_and_code_are_named(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.folder / "calibration.jsonl").write_text("{} \n")
    project.environment = "sha256:other"
    monkeypatch.setattr(planning, "code_digest", lambda module: f"sha256:{module}")
    told = "calibration.jsonl changed; its code changed; its environment changed"
    assert project.reason() == told


def test_files_of_one_name_are_told_apart(project: Project) -> None:
    other = project.folder / "other/calibration.jsonl"
    other.parent.mkdir()
    other.write_text("{}\n{}\n")
    project.files = (other, project.folder / "calibration.jsonl")
    project.make()
    assert project.reason() == "asked for, though it is there"
    other.write_text("{} \n")
    assert project.reason() == "calibration.jsonl changed"


def test_what_follows_from_another_stage_names_the_nearest(project: Project) -> None:
    project.location = "b"
    assert project.reason("fetch_source") == 'location: "a", now "b"'
    assert project.reason("quantize_nvfp4", "fetch_source") == "after fetch_source"
    all_three = ("quantize_nvfp4", "fetch_source")
    assert project.reason("graft_mtp", *all_three) == "after quantize_nvfp4"


def test_files_of_a_local_checkpoint(project: Project) -> None:
    project.looks = "touched"
    assert project.reason("fetch_source") == "the files of a changed"


def test_another_artifact_that_is_there_already(project: Project) -> None:
    plan = project.plan()
    fetched = plan.stages["fetch_source"].pointer
    project.source, project.location = "another source", "b"
    project.make()
    # The results show the other configuration's; this one's source was made before.
    project.source, project.location = "source", "a"
    plan.stages["quantize_nvfp4"].pointer.unlink()
    assert fetched.is_file()
    assert project.reason() == "another fetch_source"


def test_an_artifact_that_is_gone(project: Project) -> None:
    plan = project.plan()
    shown = json.loads((plan.folder / "quantize_nvfp4.json").read_text())
    place = plan.store.place(shown["content"])
    place.chmod(0o755)
    shutil.rmtree(place)
    assert project.reason() == "its artifact is gone"


def test_an_artifact_that_is_damaged(project: Project) -> None:
    plan = project.plan()
    shown = json.loads((plan.folder / "quantize_nvfp4.json").read_text())
    damaged = plan.store.place(shown["content"]) / "file"
    damaged.chmod(0o644)
    damaged.write_text("quantised")
    assert project.reason() == "what is there is damaged, or answers something else"
