"""The release of a mixture of experts on the real vLLM, beside the same numbers in torch."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from conversion import Conversion, Pico, convert
from lint_checkpoints import drop_tensors
from scion.checkpoint.shards import Checkpoint
from scion.engines.config import Launch, Serving
from scion.engines.server import Server
from scion.engines.vllm import server as vllm
from scion.engines.vllm.counters import read_counters
from scion.evaluation.chats import read_chats, token_ids
from scion.evaluation.decoding import Prompt, generate
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights
from served_scores import server_scores, target_scores
from serving_python import PYTHON
from shared import made_once

pytestmark = pytest.mark.serve

LAUNCH = Launch(name="test", title="Test", max_model_len=2048, max_num_seqs=1, speculative_tokens=1)
# As of dense releases, see test_fp8.py. A router turns a last bit into another expert.
NEAR = 0.06


@dataclass(frozen=True)
class PicoMixture(Pico):
    """pico-mixture as a fine-tune without its head, and as its donor.

    Attributes:
        headless: The former.
    """

    headless: Path

    @property
    def agent(self) -> Path:
        return self.headless

    @property
    def base(self) -> Path:
        return self.folder / "pico-mixture"


@pytest.fixture(scope="module")
def mixture(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Conversion:
    """The artifacts of its conversion, made once."""

    def make(folder: Path) -> None:
        headless = folder / "source"
        shutil.copytree(pico.folder / "pico-mixture", headless)
        drop_tensors(headless, lambda name: name.startswith("mtp."))
        convert(PicoMixture(pico.folder, headless), folder)

    return Conversion.open(made_once(tmp_path_factory, "mixture", make))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "server.log"


@pytest.fixture(scope="module")
def server(mixture: Conversion, log: Path) -> Iterator[Server]:
    folder = mixture.graft_mtp.folder
    with vllm.serve(
        folder, name="mixture", launch=LAUNCH, serving=Serving(), python=PYTHON, log=log
    ) as running:
        yield running


def test_every_expert_is_quantized_and_proven(mixture: Conversion) -> None:
    made, proven = mixture.quantize_nvfp4.facts, mixture.verify_release.facts
    assert made["experts"]["experts"] == 6 * 8
    assert (
        made["quantized_modules"] == proven["quantized_modules"] == 6 * (3 * 8 + 3) + 4 * 3 + 2 * 4
    )
    rows = mixture.graft_mtp.tensors()
    assert rows["model.language_model.layers.5.mlp.experts.7.up_proj.weight"]["dtype"] == "U8"
    # The head's stay as they were trained, stacked.
    assert rows["mtp.layers.0.mlp.experts.gate_up_proj"]["dtype"] == "BF16"
    stack = mixture.extract_text.tensors()["model.language_model.layers.5.mlp.experts.down_proj"]
    origin = rows["model.language_model.layers.5.mlp.experts.7.down_proj.weight"]["origin"]
    assert origin == {"from": "quantized", "sha256": stack["sha256"]}


def test_vllm_emulates_the_experts(server: Server, log: Path) -> None:
    text = log.read_text()
    assert "Using 'EMULATION' NvFp4 MoE backend" in text
    assert "KeptWeightsNvFp4LinearKernel for NVFP4 GEMM" in text


def test_answers_are_those_of_the_numbers(server: Server, mixture: Conversion, pico: Pico) -> None:
    weights = Weights(
        Checkpoint.open(mixture.graft_mtp.folder), device=torch.device("cpu"), activations="nvfp4"
    )
    target = Target(weights)
    before = read_counters(server.read("/metrics"))
    differences: list[torch.Tensor] = []
    for chat in read_chats(pico.folder / "prompts.jsonl")[:3]:
        tokens = token_ids(server, chat, reply=True)
        reply = generate(server, Prompt(chat.name, "test", False, tokens), 40).tokens
        whole = [*tokens, *reply]
        difference = server_scores(server, "mixture", whole) - target_scores(target, whole)
        differences.append(difference[-len(reply) :])
    assert torch.cat(differences).abs().mean() < NEAR
    new = read_counters(server.read("/metrics")) - before
    # The head was trained with the body: it drafts what comes only if its experts are in place.
    assert sum(new.accepted_per_position) > 0.6 * new.draft_tokens
