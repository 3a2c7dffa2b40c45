"""The whole workflow on the embedded pair: real stages, the real server, the finished release.

The workflow runs once, in a copy of the project, every rule of it; fewer and shorter requests are
made than by default. What reruns after a change is asked of `snakemake -n` there.
"""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from card_text import breakable
from commands import Earlier, interrupt
from hub_server import NO_PROXY, HubServer
from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact
from scion.engines.vllm.command import ServerCommand
from scion.report.card.serving import fastest_run
from scion.report.config import Card

pytestmark = [pytest.mark.serve, pytest.mark.timeout(1800)]

RELEASE = "pico-agent-nvfp4-text-mtp"
FEWER = """
measurement:
  decode_tokens: [16, 32]
  repeats: 5
  reply_tokens: 60
  speculative_tokens: [0, 3, best]
agent_tasks: {cases: 4}
quality: {samples: 4, max_tokens: 300}
ifeval: {limit: 4}
bfcl: {limit: 1}
"""
CONFIG = ("--configfile", "fewer.yaml")
LAUNCH = {"name": "pico", "title": "Pico", "max_model_len": 2048}
BELOW_QUANTIZE = {
    "quantize_nvfp4",
    "graft_mtp",
    "verify_release",
    "measure_serving",
    "run_agent_tasks",
    "evaluate_quality",
    "evaluate_ifeval",
    "evaluate_bfcl",
    "render_card",
    "seal_release",
}


EVIDENCE = (
    "fetch_source",
    "fetch_donor",
    "fetch_base",
    "lint_source",
    "fix_keys",
    "extract_text",
    "quantize_nvfp4",
    "verify_release",
    "measure_serving",
    "run_agent_tasks",
    "evaluate_quality",
    "evaluate_ifeval",
    "evaluate_bfcl",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    project = ProjectCopy.make(tmp_path_factory.mktemp("project"))
    (project.folder / CONFIG[1]).write_text(FEWER)
    done = project.run("snakemake", "--cores", "all", *CONFIG)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return project


@pytest.fixture(scope="module")
def results(finished: ProjectCopy) -> Path:
    return finished.folder / "results" / RELEASE


@pytest.fixture(scope="module")
def runs(results: Path) -> dict[int, dict[str, Any]]:
    serving = json.loads((results / "measure_serving/serving.json").read_text())
    return {run["speculative_tokens"]: run for run in serving["runs"]}


def test_the_release_passes_all_five_agent_tasks(results: Path) -> None:
    tasks = json.loads((results / "run_agent_tasks/agent_tasks.json").read_text())
    first = [(task["name"], task["results"][0]["passed"]) for task in tasks["tasks"]]
    assert first == [
        ("chat_with_reasoning", True),
        ("single_tool_call", True),
        ("continue_after_tool_result", True),
        ("final_synthesis", True),
        ("parallel_tool_calls", True),
    ]


def test_the_server_decodes_the_nvfp4_release(finished: ProjectCopy) -> None:
    log = finished.folder / "logs" / RELEASE / "measure_serving.pico.n3.server.log"
    assert "KeptWeightsNvFp4LinearKernel for NVFP4" in log.read_text()


def test_greedy_text_is_the_same_with_and_without_mtp(runs: dict[int, dict[str, Any]]) -> None:
    same = runs[3]["same_text_as_baseline"]
    assert same["identical"] == same["total"] > 0, same["differences"]


def test_the_grafted_head_is_accepted_well_above_chance(runs: dict[int, dict[str, Any]]) -> None:
    (counts,) = [row for row in runs[3]["acceptance"] if row["set"] == "all"]
    assert counts["drafts"] > 100
    assert len(counts["per_position"]) == 3
    # A head that guesses is right once in a vocabulary of hundreds.
    assert counts["per_position"][0]["low"] > 0.3
    assert counts["mean_length"]["low"] > 1.3


def test_the_number_of_drafts_that_is_predicted_to_be_fastest_is_measured(
    results: Path, runs: dict[int, dict[str, Any]]
) -> None:
    serving = json.loads((results / "measure_serving/serving.json").read_text())
    prediction = serving["prediction"]
    rows = {row["speculative_tokens"]: row for row in prediction["speeds"]}
    assert [step["speculative_tokens"] for step in prediction["measured_steps"]] == [0, 3]
    assert set(runs) == {0, 3, prediction["best"]}
    assert {number for number, row in rows.items() if row["measured"]} == set(runs)
    speeds = {number: row["tokens_per_second"] for number, row in rows.items()}
    assert max(speeds.values()) == speeds[prediction["best"]]
    for drafted in set(runs) - {0}:
        (counts,) = [row for row in runs[drafted]["acceptance"] if row["set"] == "all"]
        replies = runs[drafted]["replies"]
        assert sum(reply["drafts"] for reply in replies) == counts["drafts"]
        positions = zip(*(reply["accepted_by_position"] for reply in replies), strict=True)
        assert [sum(place) for place in positions] == counts["accepted_by_position"]


def test_summary_names_release_digests_tasks_and_acceptance(
    finished: ProjectCopy, results: Path
) -> None:
    text = finished.run("scion", "summary", CONFIG[1]).stdout
    release = Artifact.open(results / "release")
    assert f"results/{RELEASE}/release" in text
    assert release.root in text
    tasks = json.loads((results / "run_agent_tasks/agent_tasks.json").read_text())
    assert f"agent tasks: {tasks['passed']} of {tasks['total']} cases = " in text
    assert "MTP n=3" in text


def test_the_hub_understands_the_card(results: Path) -> None:
    card = ModelCard.load(results / "release/README.md")
    metadata = card.data.to_dict()
    assert metadata["license"] == "apache-2.0"
    assert metadata["base_model"] == "example/pico-agent"
    assert metadata["base_model_relation"] == "quantized"
    assert Artifact.open(results / "graft_mtp").content in card.text


def test_the_card_quotes_what_was_measured(results: Path, runs: dict[int, dict[str, Any]]) -> None:
    card = breakable((results / "release/README.md").read_text())
    (counts,) = [row for row in runs[3]["acceptance"] if row["set"] == "all"]
    for rate in counts["per_position"]:
        assert f"{100 * rate['value']:.1f} %" in card
    tasks = json.loads((results / "run_agent_tasks/agent_tasks.json").read_text())
    assert f"### Agent tasks: {tasks['passed']} of {tasks['total']} cases" in card
    assert "emulation" in card


def test_a_sealed_release_can_be_checked_by_whoever_downloads_it(
    finished: ProjectCopy, results: Path, tmp_path: Path
) -> None:
    downloaded = tmp_path / "release"
    shutil.copytree(results / "release", downloaded)
    sound = finished.run("scion", "check", str(downloaded))
    assert sound.returncode == 0, sound.stderr
    assert Artifact.open(results / "graft_mtp").content in sound.stdout

    pair = [str(finished.folder / "resources/pico" / name) for name in ("pico-agent", "pico-base")]
    given = ("--source", pair[0], "--donor", pair[1], "--format", "json")
    audited = finished.run("scion", "audit", str(downloaded), *given)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    outcomes = {each["part"]: each["outcome"] for each in json.loads(audited.stdout)["verdicts"]}
    assert outcomes["attestations"] == "proved"

    card = downloaded / "README.md"
    card.write_text(card.read_text().replace("### Agent tasks: ", "### Agent tasks: 1"))
    edited = finished.run("scion", "check", str(downloaded))
    assert edited.returncode == 1
    assert "README.md: expected" in edited.stderr


def test_the_release_is_published_and_loaded_from_there(
    finished: ProjectCopy, results: Path, tmp_path: Path
) -> None:
    with HubServer({}, xet=tmp_path / "xet") as hub:
        there = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": hub.write_token,
            "HF_HOME": str(tmp_path / "cache"),
            "NO_PROXY": NO_PROXY,
        }

        def run(*command: str) -> str:
            done = finished.run(*command, **there)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        run("snakemake", "--cores", "1", "publish", *CONFIG)
        ((name, repository),) = hub.repositories.items()
        assert name == Card().repository
        first = repository.commit
        # Again, it is asked and has all of it.
        run("snakemake", "--cores", "1", "publish", *CONFIG)
        assert repository.commit == first
        run("hf", "download", name, "--local-dir", str(tmp_path / "downloaded"))
        # The client has a folder of its own there.
        told = run("scion", "check", str(tmp_path / "downloaded"))
        assert "files are what the manifests say" in told
        loaded = run(
            "python",
            "-c",
            "from transformers import AutoConfig, AutoTokenizer\n"
            f"config = AutoConfig.from_pretrained({name!r})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({name!r})\n"
            "print(config.model_type, len(tokenizer.encode('a graft')))",
        )
        assert loaded.split()[0] == "qwen3_5"
        assert int(loaded.split()[1]) > 0
        # From nothing but what was published, and the sources: bit by bit.
        again = tmp_path / "again"
        said = run("scion", "reproduce", f"hf://{name}", "--folder", str(again))
        weights = Artifact.open(results / "graft_mtp").content
        assert f"published: {weights}\nmade here: {weights}" in said
        assert "equal: 274 tensors, bit by bit" in said
        assert (again / "results/.store/artifacts").is_dir()


@pytest.mark.parametrize("stage", ["render_card", "seal_release"])
def test_an_interrupted_card_or_seal_leaves_nothing(
    finished: ProjectCopy, results: Path, tmp_path: Path, stage: str
) -> None:
    store = results.parent / ".store"
    own: Any = {
        "render_card": {
            "template": finished.folder / "workflow/templates/card.md.jinja",
            "sections": sorted((finished.folder / "workflow/templates/sections").iterdir()),
            "tasks": finished.folder / "workflow/scion/evaluation/agent/agent_tasks.yaml",
            "settings": json.dumps({"card": {}, "launches": [LAUNCH]}),
        },
        "seal_release": {"card": results / "render_card.json", "settings": json.dumps({})},
    }[stage]
    earlier = Earlier(results / "release")
    done = interrupt(
        stage,
        signal.SIGTERM,
        when=lambda _said: any(store.glob("work/*/draft")),
        release=results / "graft_mtp.json",
        evidence=[results / f"{name}.json" for name in EVIDENCE],
        output=tmp_path / f"{stage}.json",
        store=store,
        **own,
    )
    assert done.returncode == 130, done.stderr
    assert list(tmp_path.iterdir()) == []
    earlier.check()
    verified = finished.run("scion", "store", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_finished_run_has_nothing_left_to_do(finished: ProjectCopy) -> None:
    assert finished.planned(*CONFIG) == set()


def test_touching_code_reruns_nothing(finished: ProjectCopy) -> None:
    for path in (finished.folder / "workflow/scion").rglob("*.py"):
        os.utime(path)
    assert finished.planned(*CONFIG) == set()


def test_editing_the_card_template_reruns_the_card_and_the_seal_alone(
    finished: ProjectCopy,
) -> None:
    template = finished.folder / "workflow/templates/card.md.jinja"
    before = template.read_text()
    try:
        template.write_text(before + "\nThanks for reading.\n")
        assert finished.planned(*CONFIG) == {"render_card", "seal_release"}
    finally:
        template.write_text(before)


def test_another_sample_count_reruns_quantization_and_what_lies_below(
    finished: ProjectCopy,
) -> None:
    config = finished.folder / "samples.yaml"
    config.write_text("quantization: {calibration: {sets: [{samples: 8}]}}\n")
    assert finished.planned(*CONFIG, str(config)) == BELOW_QUANTIZE


def test_weights_are_dropped_and_made_again_for_what_reads_them(
    finished: ProjectCopy, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path / "project")
    (project.folder / "scratch.yaml").write_text("scratch: {drop_weights: true, sources: 1}\n")
    (project.folder / "samples.yaml").write_text(
        "quantization: {calibration: {sets: [{samples: 8}]}}\n"
    )
    dropping = (*CONFIG, "scratch.yaml")
    done = project.run("snakemake", "--cores", "all", *dropping)
    assert done.returncode == 0, done.stderr
    # In a copy of a folder no two files are one, so the quantized model's shards go as well.
    of_weights = {"fetch_source", "fetch_donor", "fetch_base", "fix_keys", "extract_text"}
    assert "dropped the weights of 6 artifacts: " in done.stderr
    shown = project.folder / "results" / RELEASE
    for stage in (*of_weights, "quantize_nvfp4"):
        assert not list(shown.glob(f"{stage}/*.safetensors"))
    assert list(shown.glob("graft_mtp/*.safetensors"))
    assert project.planned(*dropping) == set()
    checked = project.run("scion", "check", str(shown / "release"))
    assert checked.returncode == 0, checked.stderr
    # What an evaluation reads is made again for it, and nothing else.
    (project.folder / "quality.yaml").write_text("quality: {max_tokens: 200}\n")
    assert project.planned(*dropping, "quality.yaml") == {
        *("fetch_source", "fetch_base", "fix_keys", "extract_text"),
        *("evaluate_quality", "render_card", "seal_release"),
    }
    other = (*dropping, "samples.yaml")
    assert project.planned(*other) == {*of_weights, *BELOW_QUANTIZE}
    again = ("fetch_source", "fix_keys", "extract_text")
    before = {stage: Artifact.open(shown / stage).content for stage in again}
    done = project.run("snakemake", "--cores", "all", *other, "--until", "quantize_nvfp4")
    assert done.returncode == 0, done.stdout + done.stderr
    for stage, content in before.items():
        artifact = Artifact.open(shown / stage)
        assert artifact.content == content
        assert artifact.check() == []
    verified = project.run("scion", "store", "verify")
    assert verified.returncode == 0, verified.stdout


def test_the_card_prints_the_command_that_was_fastest(
    results: Path, runs: dict[int, dict[str, Any]]
) -> None:
    fastest = fastest_run(list(runs.values()))
    command = ServerCommand.recorded(fastest["command"], [])
    repository = Card().repository
    text = (results / "release/README.md").read_text()
    assert f"```bash\n{command.text(repository, name=repository)}\n```" in text
    # Nothing of this machine is published with it.
    assert str(results) not in json.dumps(fastest["command"])
