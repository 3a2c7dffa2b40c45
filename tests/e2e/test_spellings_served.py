"""Either spelling of a release on the real vLLM: the same texts, and the same drafts accepted.

Of NVFP4 for weights and activations, and for weights alone.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from conversion import ENVIRONMENT, Conversion
from hub_server import NO_PROXY, HubServer
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.engines.config import Launch, Serving
from scion.engines.vllm import server as vllm
from scion.engines.vllm.counters import SpecDecodeCounters, read_counters
from scion.evaluation.chats import read_chats, token_ids
from scion.evaluation.decoding import Prompt, generate
from scion.formats import compressed_tensors
from scion.formats.modelopt import FP8, NVFP4, W4A16
from scion.stages.graft_mtp import graft_mtp
from scion.stages.respell import respell
from serving_python import PYTHON, run_code

pytestmark = pytest.mark.serve

PROJECT = Path(__file__).parents[2]
LAUNCH = Launch(name="test", title="Test", max_model_len=2048, max_num_seqs=1, speculative_tokens=3)


@dataclass(frozen=True)
class Served:
    """What a server made of some prompts."""

    texts: list[list[int]]
    drafts: SpecDecodeCounters
    log: str


def served(release: Path, folder: Path) -> Served:
    log = folder / "server.log"
    with vllm.serve(
        release, name="release", launch=LAUNCH, serving=Serving(), python=PYTHON, log=log
    ) as server:
        before = read_counters(server.read("/metrics"))
        texts: list[list[int]] = []
        for chat in read_chats(PROJECT / "resources/pico/prompts.jsonl")[:8]:
            tokens = token_ids(server, chat, reply=True)
            texts.append(generate(server, Prompt(chat.name, "test", False, tokens), 40).tokens)
        drafts = read_counters(server.read("/metrics")) - before
    return Served(texts, drafts, log.read_text())


def respelled(conversion: Conversion, folder: Path) -> Artifact:
    quantized = respell(
        quantized=conversion.quantize_nvfp4,
        spelling="compressed-tensors",
        output=Output.at(folder / "respell"),
        environment=ENVIRONMENT,
    )
    return graft_mtp(
        quantized=quantized,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        output=Output.at(folder / "graft_mtp"),
        environment=ENVIRONMENT,
    )


@pytest.mark.parametrize(
    ("quantized", "kernel"),
    [
        ("conversion", "KeptWeightsNvFp4LinearKernel"),
        ("weights_alone", "WeightOnlyNvFp4LinearKernel"),
    ],
)
def test_both_spellings_are_served_alike(
    quantized: str, kernel: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    conversion: Conversion = request.getfixturevalue(quantized)
    (tmp_path / "modelopt").mkdir()
    modelopt = served(conversion.graft_mtp.folder, tmp_path / "modelopt")
    packed = served(respelled(conversion, tmp_path).folder, tmp_path)
    for each in (modelopt, packed):
        assert f"Using {kernel} for NVFP4 GEMM" in each.log
    assert "quantization=modelopt_fp4" in modelopt.log
    assert "quantization=compressed-tensors" in packed.log
    assert packed.texts == modelopt.texts
    assert packed.drafts == modelopt.drafts
    print(modelopt.drafts, *modelopt.texts, sep="\n")
    # The MTP head of the pair was trained with it: it drafts what comes only if all is in place.
    assert packed.drafts.accepted > 0.5 * packed.drafts.draft_tokens


LOADED = """
import json, sys, torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
source, release, chats = sys.argv[1:]
told, answers = {}, {}
for name in (source, release):
    loaded, told[name] = AutoModelForImageTextToText.from_pretrained(
        name, dtype=torch.bfloat16, output_loading_info=True
    )
    tokenizer = AutoTokenizer.from_pretrained(name)
    for line in open(chats).read().splitlines()[:8]:
        chat = json.loads(line)
        ids = tokenizer.apply_chat_template(
            chat["messages"], tools=chat.get("tools"), return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            logits = loaded.eval()(**ids, use_cache=False).logits[0].float()
        answers.setdefault(name, []).append(logits.softmax(-1).max(-1))
own, other = (map(torch.cat, zip(*answers[name])) for name in (source, release))
(sure, token), (_, answer) = own, other
same = (token == answer)[sure > 0.5].float().mean().item()
keys = {kind: sorted(told[release][kind]) for kind in ("missing_keys", "unexpected_keys")}
print(json.dumps({"same": same, **keys}))
"""


def test_transformers_loads_a_release_from_the_hub(conversion: Conversion, tmp_path: Path) -> None:
    release = respelled(conversion, tmp_path).folder
    with HubServer({"owner/release": release}) as hub:
        there = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": NO_PROXY, "HF_HOME": str(tmp_path / "hf")}
        command = [str(PYTHON), "-c", LOADED, str(conversion.fix_keys.folder), "owner/release"]
        done = subprocess.run(
            [*command, str(PROJECT / "resources/pico/prompts.jsonl")],
            env={**os.environ, **there},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # It has no tower, which transformers fills at random; of its language model nothing is lost.
    assert all(name.startswith("model.visual.") for name in found["missing_keys"])
    assert found["unexpected_keys"] == []
    # Where the source is sure of the next token, the release says the same.
    assert found["same"] > 0.98, found["same"]


LIBRARY = """
import json, sys
from compressed_tensors.quantization import QuantizationConfig
for declared in json.loads(sys.argv[1]):
    print(json.dumps(QuantizationConfig.model_validate(declared).model_dump(mode="json")))
"""


def test_the_library_itself_would_declare_it_so() -> None:
    kinds = [(NVFP4,), (W4A16,), (NVFP4, FP8), (FP8, W4A16)]
    declared = [
        compressed_tensors.declaration(
            ["lm_head", "model.visual*", "mtp*"],
            producer={},
            algorithms={f"model.layers.{n}.mlp": kind for n, kind in enumerate(each)},
        )
        for each in kinds
    ]
    done = run_code(LIBRARY, json.dumps(declared))
    assert done.returncode == 0, done.stderr
    for ours, theirs in zip(declared, done.stdout.splitlines(), strict=True):
        assert ours.pop("producer") == {}
        assert ours == json.loads(theirs)


WEIGHTS_ALONE = """
import torch, types
from vllm.model_executor.kernels.linear.nvfp4.base import NvFp4LinearLayerConfig
from scion_vllm_plugin.kernel import WeightOnlyNvFp4LinearKernel
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import dequantize_to_dtype
torch.manual_seed(0)
layer = types.SimpleNamespace(
    weight=torch.randint(0, 256, (96, 64), dtype=torch.uint8),
    weight_scale=torch.rand(96, 8).to(torch.float8_e4m3fn),
    weight_global_scale=torch.tensor(0.01),
)
kernel = WeightOnlyNvFp4LinearKernel(NvFp4LinearLayerConfig())
decoded = dequantize_to_dtype(
    layer.weight, layer.weight_scale, layer.weight_global_scale, torch.bfloat16, 16, swizzle=False
)
bias = torch.randn(96, dtype=torch.bfloat16)
for tokens in (1, 4):
    # Of numbers that NVFP4 would not hold.
    x = torch.randn(tokens, 128, dtype=torch.bfloat16)
    assert torch.equal(kernel.apply_weights(layer, x), x @ decoded.T)
    assert torch.equal(kernel.apply_weights(layer, x, bias), x @ decoded.T + bias)
print("equal")
"""


def test_weights_alone_are_multiplied_with_inputs_as_they_are() -> None:
    done = run_code(WEIGHTS_ALONE)
    assert done.stdout.strip().endswith("equal"), done.stderr
