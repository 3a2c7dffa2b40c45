"""Kinds of release beside the grafted one: the source's own head, no head, a plain decoder.

Each goes through the conversion stages, is proved, and answers on a real server.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import measured
from conversion import Pico, convert_stages
from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.release_check import check_release
from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.config import Config
from scion.engines.config import PICO_LAUNCH, Serving
from scion.engines.vllm import server as vllm
from scion.engines.vllm.counters import SpecDecodeCounters, read_counters
from scion.report.summary_lines import serving_lines
from sealed import sealed
from serving_python import PYTHON

pytestmark = pytest.mark.serve

SAMPLES = 2
QUESTION = [{"role": "user", "content": "What is the weather in Rome?"}]
Made = dict[str, Artifact]


def converted(pico: Pico, source: Path, folder: Path, head: Any) -> Made:
    calibration = (str(pico.calibration), SAMPLES)
    return convert_stages(source, folder, donor=None, head=head, calibration=calibration)


def answered(release: Path, drafts: int, log: Path) -> tuple[str, SpecDecodeCounters]:
    """What a server of a release says, and what it counted of drafts."""
    launch = PICO_LAUNCH.model_copy(update={"speculative_tokens": drafts})
    with vllm.serve(
        release, name="kind", launch=launch, serving=Serving(), python=PYTHON, log=log
    ) as server:
        body = {"model": "kind", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
        answer = server.ask("/v1/chat/completions", body)
        text = answer["choices"][0]["message"]["content"] or json.dumps(answer["choices"][0])
        return text, read_counters(server.read("/metrics"))


@pytest.fixture(scope="module")
def own(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The base model with the head that it was trained with."""
    return converted(pico, pico.base, tmp_path_factory.mktemp("own"), "kept")


@pytest.fixture(scope="module")
def headless(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same, its head given up."""
    return converted(pico, pico.base, tmp_path_factory.mktemp("headless"), "removed")


@pytest.fixture(scope="module")
def plain(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A Qwen2 of random weights: biases, one table for embeddings and head."""
    source = tmp_path_factory.mktemp("plain") / "source"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=0,
    )
    model: Any = Qwen2ForCausalLM(config).bfloat16()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_()
    model.save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(pico.base / name, source / name)
    return converted(pico, source, source.parent / "made", "absent")


def card_of(made: Made, folder: Path, *, drafted: tuple[int, ...]) -> str:
    """The card of a sealed release, in which `scion check` finds nothing wrong."""
    content = measured.results() | {"measure_serving": measured.serving(drafted=drafted)}
    release = sealed(made, folder, content, base=None)
    assert check_release(FolderTree(release))[1] == []
    assert not (release / "provenance/fetch_donor.json").exists()
    return (release / "README.md").read_text()


def test_the_card_of_an_own_head_says_whose_it_is(own: Made, tmp_path: Path) -> None:
    text = card_of(own, tmp_path, drafted=(0, 3))
    assert "with its own bf16 multi-token-prediction (MTP) head |" in text
    assert "MTP head: the parent's own, the 15 tensors (985.22 kB), bit for bit." in text
    assert "donor" not in text


def test_the_card_without_a_head_says_so(headless: Made, tmp_path: Path) -> None:
    text = card_of(headless, tmp_path, drafted=(0,))
    assert "without a multi-token-prediction (MTP) head |" in text
    assert "| **acceptance** | none: without an MTP head nothing drafts |" in text
    assert "None: this release has no MTP head, so nothing drafts." in text
    assert "MTP head: none; the parent's 15 tensors were left out." in text
    assert "and the MTP head (engines" not in text
    assert "acceptance.svg" not in text
    (line,) = serving_lines(measured.serving(drafted=(0,)))
    assert line.startswith("no MTP:")
    assert "tokens a second" in line


def test_the_card_of_a_plain_decoder_tells_its_own_parts(plain: Made, tmp_path: Path) -> None:
    text = card_of(plain, tmp_path, drafted=(0,))
    none = "the architecture, Qwen2 and 2.5, has none"
    assert f"Vision tower: {none}. MTP head: {none}." in text
    assert "`lm_head` and the embeddings, which are one table (" in text
    assert "all norms and biases." in text
    assert "linear modules: attention, MLP." in text
    for foreign in ("linear_attn", "gated delta net", "--language-model-only", "text only"):
        assert foreign not in text


def test_the_sources_own_head_is_kept_bit_for_bit(own: Made) -> None:
    source, release = own["fetch_source"].tensors(), own["graft_mtp"].tensors()
    head = [name for name in source if name.startswith("mtp.")]
    for name in head:
        assert release[name]["sha256"] == source[name]["sha256"]
        assert release[name]["origin"] == {"from": "source", "sha256": source[name]["sha256"]}
    facts = own["graft_mtp"].facts
    assert (facts["mtp_origin"], facts["mtp_tensors"], facts["donor"]) == ("source", 15, None)
    assert own["verify_release"].facts["mtp_tensors"] == len(head) == 15
    assert own["graft_mtp"].manifest["made_from"].keys() == {"quantized", "fixed"}


def test_it_drafts_on_a_server(own: Made, tmp_path: Path) -> None:
    _, counted = answered(own["graft_mtp"].folder, 3, tmp_path / "log")
    assert counted.drafts > 0
    assert sum(counted.accepted_per_position) > counted.drafts


def test_a_release_without_head_declares_none_and_holds_none(headless: Made) -> None:
    release = Checkpoint.open(headless["graft_mtp"].folder)
    assert release.config["text_config"]["mtp_num_hidden_layers"] == 0
    assert not any(name.startswith("mtp.") for name in release.shard_of)
    facts = headless["graft_mtp"].facts
    assert (facts["mtp_origin"], facts["mtp_tensors"], facts["mtp_bytes"]) == ("none", 0, 0)
    assert headless["verify_release"].facts["mtp_tensors"] == 0
    codes = {row["code"] for row in headless["verify_release"].facts["lint"]["findings"]}
    assert not any(code.startswith("M3") for code in codes)


def test_it_is_served_without_drafts(headless: Made, tmp_path: Path) -> None:
    text, counted = answered(headless["graft_mtp"].folder, 0, tmp_path / "log")
    assert text
    assert counted.drafts == 0


def test_a_plain_decoder_keeps_biases_and_tied_embeddings(plain: Made) -> None:
    source, release = plain["fetch_source"].tensors(), plain["graft_mtp"].tensors()
    biases = [name for name in source if name.endswith(".bias")]
    assert len(biases) == 6
    for name in (*biases, "model.embed_tokens.weight"):
        assert release[name]["sha256"] == source[name]["sha256"]
    assert "lm_head.weight" not in release
    config = json.loads((plain["graft_mtp"].folder / CONFIG).read_bytes())
    # vLLM builds a head of its own before it ties it.
    assert "lm_head" in config["quantization_config"]["ignore"]
    assert plain["quantize_nvfp4"].facts["quantized_modules"] == 2 * 7
    assert plain["extract_text"].facts["not_applicable"] == {
        "vision tower": "the architecture, Qwen2 and 2.5, has none",
        "MTP head": "the architecture, Qwen2 and 2.5, has none",
    }


def test_it_is_loaded_and_answers(plain: Made, tmp_path: Path) -> None:
    text, counted = answered(plain["graft_mtp"].folder, 0, tmp_path / "log")
    assert text
    assert counted.drafts == 0


def test_the_workflow_makes_a_release_without_head_of_what_it_has(
    converted_project: ProjectCopy, tmp_path: Path
) -> None:
    project = converted_project.copy(tmp_path / "project")
    project.configure(
        "headless.yaml",
        donor=None,
        mtp={"origin": "none"},
        launches=[PICO_LAUNCH.model_dump(mode="json") | {"speculative_tokens": 0}],
        measurement={"speculative_tokens": [0]},
        comparison={"acceptance_prompts": None},
        card={"base": None},
    )
    asked = ("--configfile", "headless.yaml", "--until", "verify_release")
    planned = project.planned(*asked)
    # The head was never part of what was quantized, and no donor is fetched.
    assert {"graft_mtp", "verify_release"} <= planned
    assert planned.isdisjoint({"fetch_donor", "quantize_nvfp4"})
    done = project.run("snakemake", "--cores", "all", *asked)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    made = project.folder / f"results/{Config().release}"
    assert Artifact.open(made / "graft_mtp").facts["mtp_origin"] == "none"
    assert Artifact.open(made / "verify_release").facts["mtp_tensors"] == 0
