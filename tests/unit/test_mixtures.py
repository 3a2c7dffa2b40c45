"""Mixtures of experts: quantized layer by layer beside ModelOpt's own over the whole model."""

import json
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.export import export_hf_checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from checkpoints import TEXT
from scion.architectures.inventory import inventory
from scion.checkpoint.experts_apart import experts_apart
from scion.checkpoint.shards import Checkpoint, plan_shards
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.samples import Sample
from scion.quantization.config import CalibrationSet
from scion.quantization.layerwise.stream import QuantizationTarget, Stream, one_thread
from scion.quantization.layerwise.torch_kernels import on_cpu
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.planned_tensors import planned
from scion.quantization.recipes import recipe

CPU = torch.device("cpu")
EXPERTS = 6
MIXTURE = {
    **{key: value for key, value in TEXT.items() if key != "intermediate_size"},
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "max_position_embeddings": 64,
}
QWEN3_5 = {
    "model_type": "qwen3_5_moe",
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "text_config": {**MIXTURE, "model_type": "qwen3_5_moe_text"},
}
QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "architectures": ["Qwen3NextForCausalLM"],
    **MIXTURE,
    "intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_nextn_predict_layers": 0,
}


def write_source(folder: Path, config: dict[str, Any], *, stacked: bool) -> Path:
    """A text model of random weights. Two experts of the first layer get no token."""
    expected = inventory(config, where="tiny")
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in expected.language.items():
        spread = 0.3 if "in_proj_z" in name or "up_proj" in name else 0.1
        tensors[name] = (spread * torch.randn(shape, generator=generator)).bfloat16()
    router = tensors[f"{expected.family.prefix}layers.0.mlp.gate.weight"]
    router[-2:] = router[:1] - 10 * router[:1].sign()
    if stacked:
        for name, stack in expected.stacked.items():
            if stack.members[0] in tensors:
                parts = [tensors.pop(member) for member in stack.members]
                tensors[name] = torch.cat(parts).view(stack.shape)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Three samples of different lengths."""
    generator = torch.Generator().manual_seed(1)
    ids = [
        torch.randint(0, MIXTURE["vocab_size"], (1, n), generator=generator) for n in (24, 9, 17)
    ]
    return [Sample(tokens, 0, CalibrationSet(), tokens.numel()) for tokens in ids]


def quantize(
    source: Path, name: str, samples: list[Sample], work: Path
) -> tuple[dict[str, torch.Tensor], PlannedShards]:
    """The tensors of quantized modules, and the shards that they are from."""
    checkpoint = Checkpoint.open(source)
    expected = inventory(checkpoint.config, where=source)
    chosen = recipe(name)
    quantized = chosen.quantized(expected)
    tensors = planned(experts_apart(checkpoint, expected.stacked), quantized)
    plan = plan_shards(tensors, max_bytes=100_000)
    shards = PlannedShards(work, plan, request="sha256:test")
    target = QuantizationTarget(chosen, shards)
    Stream(checkpoint, expected, [target], pack(samples, None), CPU).run()
    shards.close()
    read = {name: it for shard in plan for name, it in load_file(work / shard).items()}
    return {n: it for n, it in read.items() if n.rpartition(".")[0] in quantized}, shards


def modelopts_own(
    source: Path, name: str, samples: list[Sample], target: Path
) -> dict[str, torch.Tensor]:
    """The same by ModelOpt over the whole model, with its own export."""
    config = recipe(name).config
    if name == "local_hessian":
        config = {**config, "algorithm": {**config["algorithm"], "layerwise": {"enable": True}}}
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()

    def forward(model: Any) -> None:
        for sample in samples:
            model(input_ids=sample.ids, use_cache=False)

    with torch.no_grad(), on_cpu(), one_thread(CPU):
        mtq.quantize(model, config, forward)
        model.config.architectures = [type(model).__name__]
        export_hf_checkpoint(model, export_dir=target)
    exported = load_file(target / "model.safetensors")
    quantized = {name.rpartition(".")[0] for name in exported if name.endswith(".input_scale")}
    return {name: it for name, it in exported.items() if name.rpartition(".")[0] in quantized}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()

    def raw(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return [name for name in one if not torch.equal(raw(one[name]), raw(other[name]))]


@pytest.mark.parametrize("name", ["nvfp4_default", "four_over_six", "mse_sweep", "local_hessian"])
def test_a_mixture_has_modelopts_bytes(samples: list[Sample], tmp_path: Path, name: str) -> None:
    source = write_source(tmp_path / "text", QWEN3_5, stacked=True)
    ours, _ = quantize(source, name, samples, tmp_path / "work")
    theirs = modelopts_own(source, name, samples, tmp_path / "modelopt")
    assert differing(ours, theirs) == []
