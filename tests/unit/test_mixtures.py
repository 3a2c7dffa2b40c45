"""Mixtures of experts: quantized layer by layer beside ModelOpt's own over the whole model."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.export import export_hf_checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from checkpoints import TEXT
from conversion import Pico, convert
from scion.architectures.inventory import inventory
from scion.artifacts.making import Output
from scion.artifacts.store.store import Store
from scion.checkpoint.experts_apart import experts_apart
from scion.checkpoint.shards import Checkpoint, plan_shards
from scion.common.errors import ScionError
from scion.formats.packing import pack as pack_alone
from scion.lint.config import Lint
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.samples import Sample
from scion.quantization.config import CalibrationSet, Quantization
from scion.quantization.estimate.estimate import Machine, estimate
from scion.quantization.estimate.layer_shapes import ModelShapes
from scion.quantization.expert_coverage import coverage
from scion.quantization.layerwise.experts import pack_together
from scion.quantization.layerwise.layer import load, named_alone
from scion.quantization.layerwise.skeleton import Skeleton
from scion.quantization.layerwise.stream import QuantizationTarget, Stream, one_thread
from scion.quantization.layerwise.torch_kernels import on_cpu
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.planned_tensors import planned
from scion.quantization.recipe_table import require_recipe_fits
from scion.quantization.recipes import recipe
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.verify_release import verify_release

CPU = torch.device("cpu")
PICO = Path(__file__).parents[2] / "resources/pico"
EXPERTS = 6
LAYER = "model.language_model.layers.0"
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


def write_source(
    folder: Path,
    config: dict[str, Any],
    *,
    stacked: bool,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """A text model of random weights. The last expert of the first layer gets no token.

    Args:
        folder: To be made.
        config: Its config.json.
        stacked: Whether experts are stacked.
        shapes: Of its tensors, if not those of the language model.
    """
    expected = inventory(config, where="tiny")
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in (shapes or expected.language).items():
        spread = 0.3 if "in_proj_z" in name or "up_proj" in name else 0.1
        tensors[name] = (spread * torch.randn(shape, generator=generator)).bfloat16()
    # All tokens have this in common, and the expert's row of the router is against it.
    tensors[f"{expected.family.embedding}.weight"][:, 0] = 3
    tensors[f"{expected.family.prefix}layers.0.mlp.gate.weight"][-1, 0] = -9
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
    ids = [torch.randint(0, 48, (1, n), generator=generator) for n in (24, 9, 17)]
    return [Sample(tokens, 0, CalibrationSet(), tokens.numel()) for tokens in ids]


def quantize(
    source: Path, name: str, samples: list[Sample], work: Path
) -> tuple[dict[str, torch.Tensor], PlannedShards]:
    """The tensors of quantized modules, and the shards that they are from."""
    checkpoint = Checkpoint.open(source)
    expected = inventory(checkpoint.config, where=source)
    chosen = recipe(name)
    quantized = chosen.quantized(expected)
    tensors = planned(experts_apart(checkpoint, expected.layer_stacks), quantized)
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


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of Qwen3.5, stacked as it is published."""
    return write_source(tmp_path_factory.mktemp("mixture") / "text", QWEN3_5, stacked=True)


@pytest.mark.parametrize("name", ["nvfp4_default", "local_hessian"])
def test_a_mixture_has_modelopts_bytes(
    source: Path, samples: list[Sample], tmp_path: Path, name: str
) -> None:
    ours, shards = quantize(source, name, samples, tmp_path / "work")
    theirs = modelopts_own(source, name, samples, tmp_path / "modelopt")
    assert differing(ours, theirs) == []
    # Two layers of 6 experts with 3 projections, the shared expert's 3, 3 or 4 of the mixer.
    assert len(ours) == 4 * (2 * (3 * EXPERTS + 3) + 3 + 4)
    # That of an expert which nothing reached among them.
    assert shards.tokens[f"{LAYER}.mlp.experts"][-1] == 0


def test_experts_that_are_stored_one_by_one_give_the_same(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    apart = write_source(tmp_path / "apart", QWEN3_5, stacked=False)
    one, _ = quantize(apart, "nvfp4_default", samples, tmp_path / "one")
    other, _ = quantize(source, "nvfp4_default", samples, tmp_path / "other")
    assert differing(one, other) == []


def test_qwen3_next_has_modelopts_bytes(samples: list[Sample], tmp_path: Path) -> None:
    source = write_source(tmp_path / "text", QWEN3_NEXT, stacked=False)
    ours, _ = quantize(source, "nvfp4_default", samples, tmp_path / "work")
    theirs = modelopts_own(source, "nvfp4_default", samples, tmp_path / "modelopt")
    assert differing(ours, theirs) == []
    assert "model.layers.0.linear_attn.in_proj_qkvz.weight_scale_2" in ours
    assert not any(".in_proj_ba." in name or ".gate." in name for name in ours)


@dataclass(frozen=True)
class NextPair(Pico):
    """A tiny Qwen3-Next without its head, and with it as the donor."""

    @property
    def agent(self) -> Path:
        return self.folder / "agent"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def calibration(self) -> Path:
        return PICO / "calibration.jsonl"


def test_qwen3_next_passes_through_every_stage_with_its_head(tmp_path: Path) -> None:
    # The published config.json has no key that counts the head's layers.
    config = {key: value for key, value in QWEN3_NEXT.items() if key != "num_nextn_predict_layers"}
    config |= {"vocab_size": 1024, "max_position_embeddings": 2048}
    pair = NextPair(tmp_path)
    expected = inventory(config, where="tiny")
    write_source(pair.agent, config, stacked=False)
    write_source(pair.base, config, stacked=False, shapes=expected.tensors)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(PICO / "pico-base" / name, pair.agent)
    made = tmp_path / "made"
    # SGLang's class takes a quantized head, and attention in bf16, whatever is declared.
    with pytest.raises(ScionError, match=r"M304 .* Q403"):
        convert(pair, made, samples=1)
    store = Store.open([str(made / ".store")])
    parts = {"release": "graft_mtp", "fixed": "fix_keys", "donor": "fetch_donor"}
    opened = {part: store.open_pointer(made / f"{stage}.json") for part, stage in parts.items()}
    proven = verify_release(
        **opened,
        output=Output.at(made / "verify_release"),
        settings=Lint(engines=("vllm==0.32.0", "vllm")),
        environment="sha256:tests",
    )
    assert proven.facts["mtp_tensors"] == len(expected.mtp) == 4 + 8 + 3 * EXPERTS + 5
    rows = opened["release"].tensors()
    assert rows["mtp.layers.0.mlp.experts.3.up_proj.weight"]["dtype"] == "BF16"
    assert rows["model.layers.1.mlp.experts.3.up_proj.weight"]["dtype"] == "U8"
    assert rows["model.layers.0.linear_attn.in_proj_qkvz.weight"]["dtype"] == "U8"
    assert rows["model.layers.0.linear_attn.in_proj_ba.weight"]["dtype"] == "BF16"


def test_gate_and_up_share_a_scale_and_a_layers_experts_one_of_activations(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    made, _ = quantize(source, "nvfp4_default", samples, tmp_path)
    experts = f"{LAYER}.mlp.experts"
    weights: set[float] = set()
    inputs: set[float] = set()
    for expert in range(EXPERTS):
        gate, up = (f"{experts}.{expert}.{part}_proj" for part in ("gate", "up"))
        assert made[f"{gate}.weight_scale_2"] == made[f"{up}.weight_scale_2"]
        weights.add(made[f"{gate}.weight_scale_2"].item())
        inputs.add(made[f"{gate}.input_scale"].item())
    assert len(weights) == EXPERTS
    assert len(inputs) == 1


def test_modelopt_sees_no_input_of_experts_by_transformers_default(
    source: Path, samples: list[Sample]
) -> None:
    """Why layers are built with the "eager" implementation: the others pass its quantizers by."""
    checkpoint = Checkpoint.open(source)
    skeleton = Skeleton.build(source)
    expected = inventory(checkpoint.config, where=source)
    states = torch.randn(1, 9, 32).bfloat16()
    seen: dict[str, Any] = {}
    for way in ("eager", "grouped_mm"):
        layer: Any = load(skeleton.layer(0), checkpoint, LAYER, device=CPU, stacks=expected.stacked)
        layer.mlp.experts.config._experts_implementation = way
        config = recipe("nvfp4_default").config
        with on_cpu(), torch.no_grad():
            mtq.quantize(
                named_alone(layer.mlp, "mlp"),
                config,
                lambda root: root.get_submodule("mlp")(states),
            )
        seen[way] = layer.mlp.experts.down_proj_input_quantizer.amax
        layer.mlp.experts.config._experts_implementation = "eager"
    assert seen["eager"] > 0
    assert seen["grouped_mm"] is None


def test_experts_packed_together_have_the_bytes_of_each_alone() -> None:
    weights = torch.randn(5, 64, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    weights[1] *= 7
    scales = torch.stack([weight.abs().amax().float() for weight in weights]) / 2688
    together = pack_together(weights, scales, None)
    for number, weight in enumerate(weights):
        codes, blocks = pack_alone(weight, scales[number])
        assert torch.equal(codes, together[0][number])
        assert torch.equal(blocks.view(torch.uint8), together[1][number].view(torch.uint8))


# Estimates


def test_an_estimate_of_a_mixture_has_its_shards_and_the_experts_that_tokens_see(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    made = estimate(
        Checkpoint.open(source),
        Quantization(recipe="local_hessian", device="cpu"),
        [[sample.tokens] for sample in samples],
        Machine("this CPU", None, 10**10),
    )
    written, _ = quantize(source, "nvfp4_default", samples, tmp_path / "work")
    sizes = (path.stat().st_size for path in (tmp_path / "work").glob("*.safetensors"))
    # Those of the test are smaller, so there are more headers.
    assert written
    assert made.shard_bytes == pytest.approx(sum(sizes), rel=0.05)
    config = json.loads((source / "config.json").read_bytes())
    expected = inventory(config, where="tiny")
    quantized = dict.fromkeys(expected.quantized, "NVFP4")
    shapes = ModelShapes.of(config, expected, quantized, where="tiny")
    layer = shapes.layers[1]
    expert, shared = 3 * 32 * 32, 3 * 32 * 32
    attention = 32 * (2 * 32 + 16 + 16) + 32 * 32
    routers = EXPERTS * 32 + 32
    assert layer.matrix_parameters == 2 * expert + shared + attention + routers
    assert layer.parameters > EXPERTS * expert
    # Gate and up of an expert have one Hessian, those of the shared one have two.
    assert len(layer.hessian_inputs) == 2 * EXPERTS + 3 + 4
    with pytest.raises(ScionError, match="does not reach the experts"):
        estimate(
            Checkpoint.open(source), Quantization(recipe="gptq"), [[8]], Machine("x", None, 10**10)
        )


# Coverage


def test_experts_that_no_sample_reached_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = coverage({"layers.1": [5, 0, 1, 0], "layers.0": [2, 2, 2, 2]})
    assert found is not None
    assert found["experts"] == 8
    assert found["unreached"] == {"layers.1": [1, 3]}
    assert (found["fewest_tokens"], found["median_tokens"]) == (0, 2)
    assert "2 of 8 experts were reached by no calibration sample" in capsys.readouterr().err
    assert coverage({}) is None
    assert "rule" not in (coverage({"layers.0": [1, 2]}) or {})
    assert capsys.readouterr().err == ""


def test_tokens_are_counted_of_the_layers_that_an_interrupted_run_has_finished(
    source: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = quantize(source, "nvfp4_default", samples, tmp_path / "whole")
    make = Stream._make

    def stops(stream: Stream, number: int, *rest: Any) -> Any:
        if number == 1:
            raise KeyboardInterrupt
        return make(stream, number, *rest)

    monkeypatch.setattr(Stream, "_make", stops)
    with pytest.raises(KeyboardInterrupt):
        quantize(source, "nvfp4_default", samples, tmp_path / "work")
    monkeypatch.undo()
    _, resumed = quantize(source, "nvfp4_default", samples, tmp_path / "work")
    assert resumed.tokens == whole.tokens
    assert [sum(counts) for counts in whole.tokens.values()] == [2 * 50, 2 * 50]


# Bad input


@pytest.mark.parametrize("name", ["gptq", "local_hessian_gptq"])
def test_gptq_is_refused(source: Path, name: str) -> None:
    """It would leave the experts as they are, and say nothing."""
    expected = inventory(Checkpoint.open(source).config, where=source)
    with pytest.raises(ScionError, match="does not reach the experts") as error:
        require_recipe_fits(recipe(name).row, expected)
    assert name in str(error.value)


def changed(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """A copy of a source whose tensors are others."""
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder


def fixed(source: Path, folder: Path) -> Any:
    taken = fetch_source(
        location=str(source), output=Output.at(folder / "source"), environment="sha256:tests"
    )
    return fix_keys(source=taken, output=Output.at(folder / "fixed"), environment="sha256:tests")


@pytest.mark.parametrize(
    ("stacked", "change", "words"),
    [
        (
            False,
            lambda tensors: tensors.pop(f"{LAYER}.mlp.experts.4.up_proj.weight"),
            ["1 missing", f"{LAYER}.mlp.experts.4.up_proj.weight"],
        ),
        (
            True,
            lambda tensors: tensors.pop(f"{LAYER}.mlp.experts.down_proj"),
            [f"{EXPERTS} missing", f"{LAYER}.mlp.experts.0.down_proj.weight"],
        ),
        (
            False,
            lambda tensors: tensors.update(
                {f"{LAYER}.mlp.experts.3.down_proj.weight": torch.zeros(32, 16).bfloat16()}
            ),
            ["[32, 32]", f"{LAYER}.mlp.experts.3.down_proj.weight", "[32, 16]"],
        ),
        (
            True,
            lambda tensors: tensors.update(
                {f"{LAYER}.mlp.experts.gate_up_proj": torch.zeros(5, 64, 32).bfloat16()}
            ),
            ["[6, 64, 32]", f"{LAYER}.mlp.experts.gate_up_proj", "[5, 64, 32]"],
        ),
        (
            True,
            lambda tensors: tensors.update(
                {f"{LAYER}.mlp.experts.0.down_proj.weight": torch.zeros(32, 32).bfloat16()}
            ),
            ["1 claimed by two keys", f"{LAYER}.mlp.experts.0.down_proj.weight"],
        ),
    ],
    ids=["one expert", "a stack", "unequal shapes", "a short stack", "stack and expert"],
)
def test_experts_that_are_missing_or_unequal_are_refused_by_layer_and_expert(
    tmp_path: Path, stacked: bool, change: Any, words: list[str]
) -> None:
    sound = write_source(tmp_path / "sound", QWEN3_5, stacked=stacked)
    broken = changed(sound, tmp_path / "broken", change)
    assert fixed(sound, tmp_path / "a").facts["renamed_tensors"] == 0
    with pytest.raises(ScionError) as error:
        fixed(broken, tmp_path / "b")
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "b/fixed").exists()
