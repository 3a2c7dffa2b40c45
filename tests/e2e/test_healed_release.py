"""A head that is healed by the workflow: replies of the real server, training, verification."""

import json

import pytest

from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact
from scion.evaluation.chats import read_chats
from scion.evaluation.offline.prompts import load_tokenizer, prompt_ids
from scion.healing.texts import TEXTS, read_texts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RELEASE, NAME = "pico-agent-nvfp4-text-mtp", "healed.yaml"
WANTED = ("--configfile", NAME, "--until", "verify_release")
PROMPTS = "resources/pico/healing.jsonl"
OTHERS = "others.jsonl"
REPLIES = {
    "prompts": PROMPTS,
    "limit": 8,
    "reply_tokens": 24,
    "dialogues": None,
    "off_domain": OTHERS,
}
TRAINING = {"steps": 2, "batch_tokens": 2000, "held_out_share": 0.25}


@pytest.fixture(scope="module")
def project(
    converted_project: ProjectCopy, tmp_path_factory: pytest.TempPathFactory
) -> ProjectCopy:
    """A project that has a verified release, and now wants it with a healed head."""
    copied = converted_project.copy(tmp_path_factory.mktemp("project"))
    configure(copied)
    assert copied.planned(*WANTED) == {"sample_replies", "heal_mtp", "verify_release"}
    done = copied.run("snakemake", "--cores", "all", *WANTED)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return copied


def configure(project: ProjectCopy, **training: object) -> None:
    others = (project.folder / "resources/pico/off_domain.jsonl").read_text().splitlines()
    (project.folder / OTHERS).write_text("\n".join(others[:2]) + "\n")
    healing = {"enabled": True, "replies": REPLIES, "training": {**TRAINING, **training}}
    project.configure(NAME, healing=healing)


def opened(project: ProjectCopy, stage: str) -> Artifact:
    return Artifact.open(project.folder / "results" / RELEASE / stage)


def test_every_prompt_is_answered_by_the_release_itself(project: ProjectCopy) -> None:
    replies, release = opened(project, "sample_replies"), opened(project, "graft_mtp")
    assert replies.manifest["made_from"]["release"]["content"] == release.content
    texts = read_texts(replies.folder / TEXTS)
    chats = [*read_chats(project.folder / PROMPTS, limit=8), *read_chats(project.folder / OTHERS)]
    tokenizer = load_tokenizer(release.folder)
    assert [text.name for text in texts] == [chat.name for chat in chats]
    assert [text.domain for text in texts] == ["in"] * 8 + ["off"] * 2
    # Every second is sampled.
    assert [text.origin for text in texts] == ["greedy", "sampled"] * 5
    for text, chat in zip(texts, chats, strict=True):
        ((begin, end),) = text.spans
        assert list(text.ids[:begin]) == prompt_ids(tokenizer, chat)
        assert end == len(text.ids)
        assert 1 <= end - begin <= 24
    assert replies.facts["reply_tokens"] == sum(
        end - begin for text in texts[:8] for begin, end in text.spans
    )
    assert replies.facts["off_domain"] == 2
    assert replies.facts["engine"]["version"]


def test_the_release_is_verified_with_the_head_that_came_of_it(project: ProjectCopy) -> None:
    healed, verified = opened(project, "heal_mtp"), opened(project, "verify_release")
    healing = healed.facts["healing"]
    assert {of: healing["texts"][of] for of in ("greedy", "sampled", "given")} == {
        **{"greedy": 4, "sampled": 4, "given": 0},
    }
    assert healing["off_domain"]["texts"] == 2
    assert len(healing["before"]["per_position"]) == 3
    better = healing["after"]["tokens"] > healing["before"]["tokens"]
    better &= not healing["off_domain"]["worse"]
    assert healing["healed"] == better
    assert verified.manifest["made_from"]["release"]["content"] == healed.content
    assert verified.facts["trained_tensors"] == (15 if better else 0)


def test_other_training_asks_no_prompt_again(project: ProjectCopy) -> None:
    assert project.planned(*WANTED) == set()
    configure(project, steps=3)
    assert project.planned(*WANTED) == {"heal_mtp", "verify_release"}


def test_the_default_release_is_healed_and_one_that_does_not_ask_is_not(
    project: ProjectCopy,
) -> None:
    assert project.planned() >= {"sample_replies", "heal_mtp"}
    assert not project.planned("--configfile", "config/default.yaml") & {"heal_mtp"}


def test_a_prompt_that_is_measured_with_stops_the_run(project: ProjectCopy) -> None:
    measured = (project.folder / "resources/pico/prompts.jsonl").read_text().splitlines()[0]
    (project.folder / "own.jsonl").write_text(f"{json.dumps(json.loads(measured))}\n")
    replies = {**REPLIES, "prompts": "own.jsonl", "limit": None}
    project.configure(NAME, healing={"enabled": True, "replies": replies, "training": TRAINING})
    done = project.run("snakemake", "--cores", "all", *WANTED)
    assert done.returncode != 0
    assert "prompts that the head would learn from are measured with, too" in done.stderr


def test_without_a_head_there_is_nothing_to_heal(project: ProjectCopy) -> None:
    launch = {"name": "pico", "title": "Pico launch", "max_model_len": 2048, "max_num_seqs": 2}
    project.configure(
        NAME,
        healing={"enabled": True},
        donor=None,
        mtp={"origin": "none"},
        card={"base": None},
        launches=[launch | {"speculative_tokens": 0}],
        measurement={"speculative_tokens": [0]},
    )
    done = project.run("snakemake", "-n", *WANTED)
    assert done.returncode != 0
    assert "healing.enabled: mtp.origin is none: there is no head to train" in done.stderr
