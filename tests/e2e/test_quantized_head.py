"""Releases whose MTP head is in FP8 or NVFP4, on the real vLLM, beside the same counts in torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch

from conversion import Conversion, Pico
from project_copy import ProjectCopy
from quantized_heads import quantized, trained
from scion.artifacts.artifact import Artifact
from scion.artifacts.store.store import Store
from scion.engines.config import Launch, Serving
from scion.engines.vllm import server as vllm
from scion.engines.vllm.counters import read_counters
from scion.evaluation.chats import Chat, read_chats, token_ids
from scion.evaluation.decoding import Prompt, generate
from scion.evaluation.offline.acceptance import Counts, measure_offline
from scion.formats.stored_modules import HeadScheme
from serving_python import PYTHON
from shared import made_once

pytestmark = pytest.mark.serve

DRAFTS, REPLY = 3, 40
LAUNCH = Launch(
    name="test", title="Test", max_model_len=2048, max_num_seqs=1, speculative_tokens=DRAFTS
)
# Texts part where last bits decide: tests/e2e/test_offline_acceptance.py says how often.
EQUAL_TEXTS = 0.4
KERNELS = {
    "fp8": "Selected Float32Fp8LinearKernel for QKVParallelLinear",
    "nvfp4": "KeptWeightsNvFp4LinearKernel for NVFP4 GEMM",
}


@pytest.fixture(scope="module")
def chats(pico: Pico) -> list[Chat]:
    return read_chats(pico.folder / "prompts.jsonl")[:6]


@pytest.fixture(scope="module")
def healing(
    conversion: Conversion, pico: Pico, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Artifact]:
    """A head that was trained, and is bf16 yet."""
    folder = made_once(
        tmp_path_factory, "trained", lambda folder: trained(conversion.graft_mtp, pico, folder)
    )
    store = Store.open([str(folder / ".store")])
    return {"heal_mtp": store.open_pointer(folder / "heal_mtp.json")}


@pytest.mark.parametrize("scheme", ["fp8", "nvfp4"])
def test_the_server_drafts_as_the_numbers_say(
    healing: Mapping[str, Artifact], chats: list[Chat], tmp_path: Path, scheme: HeadScheme
) -> None:
    release = quantized(healing, tmp_path, scheme).folder
    log = tmp_path / "server.log"
    served = _served(release, chats, log)
    assert KERNELS[scheme] in log.read_text()
    torch.set_num_threads(1)
    offline = measure_offline(
        release, chats, draft_tokens=DRAFTS, reply_tokens=REPLY, device="cpu"
    ).prompts
    for one, other in zip(served, offline, strict=True):
        print(one.name, one.drafts, one.accepted, "offline", other.drafts, other.accepted)
    # The head was trained with its body: it drafts what comes only if all is in place.
    assert sum(sum(one.accepted) for one in served) > 0.6 * DRAFTS * sum(
        one.drafts for one in served
    )
    same = [pair for pair in zip(served, offline, strict=True) if pair[0].reply == pair[1].reply]
    assert len(same) >= EQUAL_TEXTS * len(chats)
    # Of 0 to 3 drafts a step. Prompt by prompt some tip over, on some processors more often.
    rates = [_accepted_a_step(counts) for counts in zip(*same, strict=True)]
    assert abs(rates[0] - rates[1]) < 0.2, rates


def test_the_workflow_quantizes_a_head_that_it_has_trained(
    converted_project: ProjectCopy, tmp_path: Path
) -> None:
    project = converted_project.copy(tmp_path / "project")
    project.configure("head.yaml", healing={"enabled": True}, mtp={"quantize": "nvfp4"})
    wanted = ("--configfile", "head.yaml", "--until", "verify_release")
    assert project.planned(*wanted) == {
        *("sample_replies", "heal_mtp", "quantize_mtp", "verify_release")
    }


def _accepted_a_step(counts: Iterable[Counts]) -> float:
    """Accepted drafts a step, over all prompts."""
    each = list(counts)
    return sum(sum(one.accepted) for one in each) / sum(one.drafts for one in each)


def _served(release: Path, chats: list[Chat], log: Path) -> list[Counts]:
    """What the server counts for each chat."""
    counts = list[Counts]()
    with vllm.serve(
        release, name="pico", launch=LAUNCH, serving=Serving(), python=PYTHON, log=log
    ) as server:
        for chat in chats:
            tokens = token_ids(server, chat, reply=True)
            before = read_counters(server.read("/metrics"))
            answer = generate(server, Prompt(chat.name, "test", False, tokens), REPLY)
            new = read_counters(server.read("/metrics")) - before
            accepted = new.accepted_per_position
            counts.append(
                Counts(chat.name, len(tokens), tuple(answer.tokens), new.drafts, accepted)
            )
    return counts
