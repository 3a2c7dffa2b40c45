"""Several releases in one run of the workflow, and their comparison on the real server."""

import json
from pathlib import Path

import pytest

from conversion import ENVIRONMENT, Conversion
from measured import agent_tasks, quality, serving
from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.files import write_json
from scion.engines.config import PICO_LAUNCH, Serving
from scion.evaluation.family.config import FamilyMember, ReleaseFamily
from scion.evaluation.family.record import Member
from scion.evaluation.serving.config import Measurement
from scion.stages.compare_family import compare_family
from serving_python import PYTHON
from two_releases import UNTIL, from_store

pytestmark = [pytest.mark.slow]

SHARED = ("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text")
OF_EACH = ("graft_mtp", "verify_release")
CHAT = {"set": "chat", "messages": [{"role": "user", "content": "What is the weather in Tokyo?"}]}


@pytest.fixture(scope="module")
def project(
    converted_project: ProjectCopy, tmp_path_factory: pytest.TempPathFactory
) -> ProjectCopy:
    made = converted_project.copy(tmp_path_factory.mktemp("family"))
    made.configure(
        "family.yaml",
        family={"name": "tiny", "title": "Tiny", "baseline": "in-modelopt"},
        releases=[
            {"release": "in-modelopt"},
            {"release": "in-compressed-tensors", "spelling": "compressed-tensors"},
        ],
    )
    return made


def planned(project: ProjectCopy, *options: str) -> dict[str, list[str]]:
    """By release, the stages that a dry run lists under it."""
    by_release: dict[str, list[str]] = {}
    for line in project.run("snakemake", "-n", *options).stdout.splitlines():
        if line.startswith("would run "):
            by_release[line.rpartition("/")[2].rstrip(":")] = []
        elif line.startswith("  "):
            by_release[list(by_release)[-1]].append(line.split()[0])
    return by_release


def test_what_differs_in_head_tower_or_spelling_is_quantized_once(project: ProjectCopy) -> None:
    of_source = ["fetch_source", "lint_source", "fix_keys", "extract_text", "quantize_nvfp4"]
    vision, base = (
        planned(project, "--configfile", f"{name}.yaml", *UNTIL)
        for name in family_of_the_embedded(project)
    )
    assert {name: set(stages) - {"fetch_donor"} for name, stages in base.items()} == {
        "pico-base-nvfp4": {*of_source, "respell", *OF_EACH},
        "pico-base-nvfp4-text-mtp": {*OF_EACH},
    }
    assert {name: set(stages) - {"fetch_donor"} for name, stages in vision.items()} == {
        "pico-vision-nvfp4-text-mtp": {*of_source, *OF_EACH},
        "pico-vision-nvfp4-mtp": {*OF_EACH},
    }


def family_of_the_embedded(project: ProjectCopy) -> list[str]:
    """Configuration files of the embedded family's releases of one source each."""
    for source, kinds in (("vision", ("text-mtp", "mtp")), ("base", (None, "text-mtp"))):
        files = [f"pico-{source}-nvfp4{f'-{kind}' if kind else ''}" for kind in kinds]
        project.configure(
            f"{source}.yaml",
            family={"name": source, "title": "Of one source", "baseline": files[0]},
            measurement={"speculative_tokens": [0, 3]},
            releases=[f"config/releases/{file}.yaml" for file in files],
        )
    return ["vision", "base"]


def test_what_two_releases_share_is_made_once(project: ProjectCopy) -> None:
    options = ("--configfile", "family.yaml", *UNTIL)
    by_release = planned(project, *options)
    assert by_release == {
        "in-modelopt": [*SHARED, "quantize_nvfp4", *OF_EACH],
        "in-compressed-tensors": ["respell", *OF_EACH],
    }
    done = project.run("snakemake", "--cores", "all", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "quantize_nvfp4" in from_store(said)
    assert said.count("\nquantize_nvfp4 ") == said.count("\nfetch_source ") == 1
    assert "in-modelopt and 1 more: 142 tensors" in said
    results = project.folder / "results"
    quantized = [
        Artifact.open(results / release / "quantize_nvfp4").content for release in by_release
    ]
    assert quantized[0] == quantized[1]
    grafted = [Artifact.open(results / release / "graft_mtp") for release in by_release]
    assert grafted[0].content != grafted[1].content
    assert all(artifact.check() == [] for artifact in grafted)
    assert project.log("in-modelopt", "quantize_nvfp4").startswith("quantize_nvfp4: the store")


def test_a_second_run_does_nothing_and_one_release_stands_alone(project: ProjectCopy) -> None:
    again = project.run("snakemake", "--cores", "all", "--configfile", "family.yaml", *UNTIL)
    assert again.stdout.splitlines() == [
        f"nothing to do: what is asked for is in results/{name}"
        for name in ("in-modelopt", "in-compressed-tensors", "tiny")
    ]
    project.configure("alone.yaml", release="in-compressed-tensors", spelling="compressed-tensors")
    assert project.planned("--configfile", "alone.yaml", *UNTIL) == set()


def test_a_limit_of_sources_holds_up_nothing_that_is_not_asked_for(
    project: ProjectCopy,
) -> None:
    project.configure(
        "two-sources.yaml",
        scratch={"sources": 1},
        family={"name": "two", "title": "Of two sources", "baseline": "agent"},
        measurement={"speculative_tokens": [0, 3]},
        releases=[{"release": "agent"}, "config/releases/pico-base-nvfp4-text-mtp.yaml"],
    )
    options = ("--configfile", "two-sources.yaml", "--until", "fix_keys")
    done = project.run("snakemake", "--cores", "all", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(project, *options) == {}


def measured(stage: str, name: str, content: object, folder: Path) -> Artifact:
    """An artifact of a stage that measures one release."""

    def build(draft: Draft) -> None:
        write_json(draft.folder / name, content)

    return remake(
        Output.at(folder / stage),
        stage=stage,
        inputs={},
        settings={},
        environment=ENVIRONMENT,
        build=build,
    )


@pytest.mark.serve
@pytest.mark.usefixtures("forks")
def test_releases_are_timed_in_turn_on_the_real_server(
    conversion: Conversion, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"name": "weather", **CHAT}) + "\n")
    records = (
        measured("measure_serving", "serving.json", serving(), tmp_path),
        measured("run_agent_tasks", "agent_tasks.json", agent_tasks(), tmp_path),
        measured("evaluate_quality", "quality.json", quality(), tmp_path),
    )
    members = [
        Member(
            FamilyMember(
                name=f"n{drafts}",
                repository=f"owner/n{drafts}",
                launch=PICO_LAUNCH.model_copy(update={"speculative_tokens": drafts}),
            ),
            conversion.graft_mtp,
            *records,
        )
        for drafts in (0, 3)
    ]
    made = compare_family(
        members=members,
        prompts=prompts,
        output=Output.at(tmp_path / "compare_family"),
        family=ReleaseFamily(name="tiny", title="Tiny", baseline="n0", rounds=2),
        serving=Serving(),
        measurement=Measurement(decode_tokens=(8,), repeats=5, parallel_requests=(1,)),
        python=PYTHON,
        log_folder=tmp_path,
        environment=ENVIRONMENT,
    )
    record = json.loads((made.folder / "family.json").read_bytes())
    baseline, drafting = record["releases"]
    assert record["hardware"]["kind"] == "cpu"
    assert baseline["speed"][0]["ratio_to_baseline"] is None
    assert drafting["speed"][0]["ratio_to_baseline"]["value"] > 0
    assert baseline["acceptance"] is None
    assert drafting["acceptance"]["set"] == "all"
    assert [drafting["algorithm"], drafting["spelling"]] == ["NVFP4", "modelopt"]
    lines = (made.folder / "family_timings.jsonl").read_text().splitlines()
    timed = [json.loads(line) for line in lines]
    assert sorted((row["release"], row["repeat"]) for row in timed) == sorted(
        (name, repeat) for name in ("n0", "n3") for repeat in range(5)
    )
    # Each was served twice.
    assert len(list(tmp_path.glob("compare_family.n*.server.log"))) == 2
