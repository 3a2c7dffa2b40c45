"""A release whose attention is in FP8, on the real vLLM, beside the same numbers in torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conversion import Conversion
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

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
LAUNCH = Launch(name="test", title="Test", max_model_len=2048, max_num_seqs=1, speculative_tokens=1)
# Mean difference of log probabilities of the replies: 0.017 was seen, and 0.027 of the same prompts
# with NVFP4 alone; tests/e2e/test_offline_acceptance.py says what last bits make of W4A4.
NEAR = 0.03


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "server.log"


@pytest.fixture(scope="module")
def server(mixed: Conversion, log: Path) -> Iterator[Server]:
    with vllm.serve(
        mixed.graft_mtp.folder,
        name="mixed",
        launch=LAUNCH,
        serving=Serving(),
        python=PYTHON,
        log=log,
    ) as running:
        yield running


def test_vllm_builds_both_formats(server: Server, log: Path) -> None:
    text = log.read_text()
    assert "KeptWeightsNvFp4LinearKernel for NVFP4 GEMM" in text
    for layer in ("QKVParallelLinear", "MergedColumnParallelLinear", "RowParallelLinear"):
        assert f"Selected Float32Fp8LinearKernel for {layer}" in text


def test_answers_are_those_of_the_numbers(server: Server, mixed: Conversion) -> None:
    weights = Weights(
        Checkpoint.open(mixed.graft_mtp.folder), device=torch.device("cpu"), activations="nvfp4"
    )
    target = Target(weights)
    before = read_counters(server.read("/metrics"))
    differences: list[torch.Tensor] = []
    for chat in read_chats(PROJECT / "resources/pico/prompts.jsonl")[:6]:
        tokens = token_ids(server, chat, reply=True)
        reply = generate(server, Prompt(chat.name, "test", False, tokens), 40).tokens
        print(chat.name, reply)
        whole = [*tokens, *reply]
        difference = server_scores(server, "mixed", whole) - target_scores(target, whole)
        differences.append(difference[-len(reply) :])
    assert torch.cat(differences).abs().mean() < NEAR
    new = read_counters(server.read("/metrics")) - before
    # The MTP head of the pair was trained with it: it drafts what comes only if all is in place.
    assert sum(new.accepted_per_position) > 0.6 * new.draft_tokens
