"""The run over layers, beside ModelOpt's own over the whole model: the same bytes."""

import contextlib
import gc
import importlib
import json
import shutil
import weakref
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.export import export_hf_checkpoint
from modelopt.torch.export.quant_utils import preprocess_linear_fusion
from modelopt.torch.quantization.nn import TensorQuantizer
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from modelopt.torch.quantization.tensor_quant import dynamic_block_quantize_op
from modelopt.torch.quantization.utils.calib_utils import gptq_blockwise_update
from safetensors.torch import load_file, save_file
from transformers import Qwen3_5ForCausalLM

from checkpoints import tiny_config
from scion.architectures.family import FUSED_ATTENTION, FUSED_DELTA_NET
from scion.architectures.inventory import inventory
from scion.checkpoint.shards import Checkpoint, plan_shards
from scion.common.errors import ScionError
from scion.formats import fp8
from scion.formats.modelopt import SUFFIXES, W4A16, quantization_config
from scion.formats.nvfp4 import dequantize
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.samples import Sample
from scion.quantization.config import CalibrationSet
from scion.quantization.layerwise import stream as stream_module
from scion.quantization.layerwise.gptq import update
from scion.quantization.layerwise.hidden_states import HiddenStates
from scion.quantization.layerwise.layer import refuse_not_finite
from scion.quantization.layerwise.maxima import record_maxima, show_maxima
from scion.quantization.layerwise.stream import QuantizationTarget, Stream
from scion.quantization.layerwise.torch_kernels import (
    fake_quantize_dynamic,
    fake_quantize_static,
    on_cpu,
    round_to_e2m1,
)
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.planned_tensors import planned
from scion.quantization.recipe_table import RECIPES
from scion.quantization.recipes import Recipe, recipe

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where there is a GPU, these tests are of what runs there."""
beside_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="torch sees no GPU to compare with")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model of two layers, one of each kind, so small that searching takes no time."""
    config = {**tiny_config(max_position_embeddings=64), "architectures": ["Qwen3_5ForCausalLM"]}
    del config["vision_config"]
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in inventory(config, where="tiny").language.items():
        # Modules that are fused shall have maxima of their own.
        spread = 0.3 if "in_proj_z" in name or "up_proj" in name else 0.1
        tensors[name] = (spread * torch.randn(shape, generator=generator)).bfloat16()
    folder = tmp_path_factory.mktemp("two") / "text"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def samples(source: Path) -> list[Sample]:
    """Three samples of different lengths."""
    words = json.loads((source / "config.json").read_bytes())["text_config"]["vocab_size"]
    generator = torch.Generator().manual_seed(1)
    lengths = (48, 17, 33)
    ids = [torch.randint(0, words, (1, n), generator=generator) for n in lengths]
    return [Sample(tokens, 0, CalibrationSet(), tokens.numel()) for tokens in ids]


def prepare(
    source: Path, chosen: Recipe, samples: list[Sample], work: Path, **options: Any
) -> tuple[Stream, Callable[[], dict[str, torch.Tensor]]]:
    """A run that is ready to start, and what reads its tensors when it has ended."""
    checkpoint = Checkpoint.open(source)
    expected = inventory(checkpoint.config, where=source)
    quantized = chosen.quantized(expected)
    plan = plan_shards(planned(checkpoint, quantized), max_bytes=100_000)
    shards = PlannedShards(work, plan, request="sha256:test")
    pack_tokens = options.pop("pack_tokens", None)
    stream = Stream(
        checkpoint=checkpoint,
        expected=expected,
        targets=[QuantizationTarget(chosen, shards)],
        batches=pack(samples, pack_tokens),
        device=options.pop("device", DEVICE),
        **options,
    )

    def finish() -> dict[str, torch.Tensor]:
        shards.close()
        read = [load_file(work / shard) for shard in plan]
        return {
            name: tensor
            for part in read
            for name, tensor in part.items()
            if name.rpartition(".")[0] in quantized
        }

    return stream, finish


def quantize(source: Path, chosen: Recipe, samples: list[Sample], work: Path, **options: Any):
    """The tensors of the quantized modules."""
    stream, finish = prepare(source, chosen, samples, work, **options)
    stream.run()
    return finish()


def modelopts_own(
    source: Path, config: dict[str, Any], samples: list[Sample], target: Path, *, shared: str = ""
) -> dict[str, torch.Tensor]:
    """The same by ModelOpt over the whole model, with its own export.

    Args:
        source: The checkpoint.
        config: ModelOpt's configuration.
        samples: To calibrate with.
        target: Folder to make.
        shared: Parents whose fused modules get one scale before export, which leaves FP8 alone.
    """
    model: Any = Qwen3_5ForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    model = model.to(DEVICE)

    def forward(model: Any) -> None:
        for sample in samples:
            model(input_ids=sample.ids.to(DEVICE), use_cache=False)

    kernels = on_cpu() if DEVICE.type == "cpu" else contextlib.nullcontext()
    with torch.no_grad(), kernels, stream_module.one_thread(DEVICE):
        mtq.quantize(model, config, forward)
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in shared.split():
                for fused in (FUSED_ATTENTION, FUSED_DELTA_NET):
                    (group, *_) = fused.values()
                    if hasattr(module, group[0]):
                        preprocess_linear_fusion([getattr(module, part) for part in group])
        model.config.architectures = ["Qwen3_5ForCausalLM"]
        export_hf_checkpoint(model, export_dir=target)
    exported = load_file(target / "model.safetensors")
    quantized = {name.rpartition(".")[0] for name in exported if name.endswith(".weight_scale")}
    return {name: it for name, it in exported.items() if name.rpartition(".")[0] in quantized}


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors whose bytes differ."""
    assert one.keys() == other.keys()

    def raw(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    return [name for name in one if not torch.equal(raw(one[name]), raw(other[name]))]


@pytest.mark.parametrize("name", ["nvfp4_default", "four_over_six", "mse_sweep", "local_hessian"])
def test_a_recipe_gives_modelopts_bytes(
    source: Path, samples: list[Sample], tmp_path: Path, name: str
) -> None:
    config = recipe(name).config
    if name == "local_hessian":
        # Its samples see quantized inputs in front of every layer unless it goes layer by layer.
        config = {**config, "algorithm": {**config["algorithm"], "layerwise": {"enable": True}}}
    ours = quantize(source, recipe(name), samples, tmp_path / "work")
    theirs = modelopts_own(source, config, samples, tmp_path / "modelopt")
    assert len(ours) == 4 * 13
    assert differing(ours, theirs) == []


@pytest.mark.parametrize(
    ("name", "use_fp8"),
    [
        ("nvfp4_default", "linear_attention"),
        ("nvfp4_default", "attention"),
        ("four_over_six", "attention"),
        ("local_hessian", "attention"),
    ],
)
def test_fp8_beside_nvfp4_has_modelopts_bytes(
    source: Path, samples: list[Sample], tmp_path: Path, name: str, use_fp8: Any
) -> None:
    chosen = recipe(name, use_fp8=use_fp8)
    config, shared = chosen.config, " ".join(chosen.fp8)
    if name == "local_hessian":
        config = {**config, "algorithm": {**config["algorithm"], "layerwise": {"enable": True}}}
    ours = quantize(source, chosen, samples, tmp_path / "work")
    theirs = modelopts_own(source, config, samples, tmp_path / "modelopt", shared=shared)
    eight_bits = {"linear_attention": 3, "attention": 7}[use_fp8]
    assert [t.dtype for t in ours.values()].count(torch.uint8) == 13 - eight_bits
    assert len(ours) == 3 * eight_bits + 4 * (13 - eight_bits)
    assert differing(ours, theirs) == []


@pytest.mark.parametrize("name", ["nvfp4_default", "four_over_six", "local_hessian"])
def test_nvfp4_of_weights_alone_has_modelopts_bytes(
    source: Path, samples: list[Sample], tmp_path: Path, name: str
) -> None:
    chosen = recipe(name, four_bits=W4A16)
    config: dict[str, Any] = chosen.config
    if name == "nvfp4_default":
        # ModelOpt has a configuration of that kind, and only for maximum scales.
        config = mtq.W4A16_NVFP4_CFG
    if name == "local_hessian":
        config = {**config, "algorithm": {**config["algorithm"], "layerwise": {"enable": True}}}
    ours = quantize(source, chosen, samples, tmp_path / "work")
    theirs = modelopts_own(source, config, samples, tmp_path / "modelopt")
    assert len(ours) == 3 * 13
    assert differing(ours, theirs) == []
    declared = json.loads((tmp_path / "modelopt/config.json").read_bytes())["quantization_config"]
    own = quantization_config([], producer={}, algorithms={"any": W4A16})
    for key in ("quant_method", "quant_algo", "config_groups"):
        assert own[key] == declared[key]


def test_a_shared_fp8_scale_is_nearer_than_the_second_rounding_of_engines(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    chosen = recipe("nvfp4_default", use_fp8="attention")
    ours = quantize(source, chosen, samples, tmp_path / "work")
    theirs = modelopts_own(source, chosen.config, samples, tmp_path / "modelopt")
    stored = load_file(source / "model.safetensors")
    for parent, group in (
        ("0.linear_attn", FUSED_DELTA_NET["in_proj_qkvz"]),
        ("1.self_attn", FUSED_ATTENTION["qkv_proj"]),
    ):
        stems = [f"model.language_model.layers.{parent}.{part}" for part in group]
        assert len({ours[f"{stem}.weight_scale"].item() for stem in stems}) == 1
        largest = max(theirs[f"{stem}.weight_scale"] for stem in stems)
        assert ours[f"{stems[0]}.weight_scale"] == largest
        errors = [0.0, 0.0]
        for stem in stems:
            once = fp8.dequantize(ours[f"{stem}.weight"], largest)
            own = fp8.dequantize(theirs[f"{stem}.weight"], theirs[f"{stem}.weight_scale"])
            twice = fp8.dequantize((own / largest).to(torch.float8_e4m3fn), largest)
            for number, decoded in enumerate((once, twice)):
                errors[number] += (decoded - stored[f"{stem}.weight"]).square().sum().item()
        assert errors[0] < errors[1]


def test_recipes_differ_where_they_should(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    made = {name: quantize(source, recipe(name), samples, tmp_path / name) for name in RECIPES}
    default = made["nvfp4_default"]
    for name, tensors in made.items():
        changed = {n.rpartition(".")[2] for n in differing(default, tensors)}
        if name == "nvfp4_default":
            assert not changed
        elif name == "gptq":
            # The scales are the maxima still; weights moved, and with them what later layers see.
            assert {"weight"} <= changed <= {"weight", "input_scale"}
        else:
            assert {"weight", "weight_scale"} <= changed


def test_a_search_knows_that_engines_fuse_the_delta_nets_projections(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    aware = recipe("mse_sweep")
    plain = replace(aware, config=mtq.NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG)
    stored = load_file(source / "model.safetensors")

    def error(chosen: Recipe, name: str) -> tuple[float, bool]:
        made = quantize(source, chosen, samples, tmp_path / name)
        parent = "model.language_model.layers.0.linear_attn"
        total = 0.0
        for part in ("in_proj_qkv", "in_proj_z"):
            stem = f"{parent}.{part}"
            decoded = dequantize(*(made[f"{stem}.{suffix}"] for suffix in SUFFIXES[:3]))
            total += (decoded - stored[f"{stem}.weight"].float()).square().sum().item()
        scales = [made[f"{parent}.{part}.weight_scale_2"] for part in ("in_proj_qkv", "in_proj_z")]
        return total, torch.equal(*scales)

    (with_groups, shared), (without, also_shared) = error(aware, "a"), error(plain, "b")
    assert shared
    assert also_shared  # by export, too late for the search
    assert with_groups < without


def test_projections_that_stay_bf16_are_not_quantized(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    chosen = recipe("nvfp4_default", keep_bf16="linear_attention")
    made = quantize(source, chosen, samples, tmp_path)
    assert not any("linear_attn" in name for name in made)
    assert any("self_attn" in name for name in made)
    attention = quantize(
        source, recipe("nvfp4_default", keep_bf16="attention"), samples, tmp_path / "attention"
    )
    assert {name.split(".")[4] for name in attention} == {"mlp"}


# Several recipes in one run


def test_recipes_made_together_are_those_made_alone(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    chosen = [
        recipe("nvfp4_default"),
        recipe("local_hessian"),
        recipe("mse_sweep", keep_bf16="attention"),
    ]
    runs = [
        prepare(source, selected, samples, tmp_path / str(n)) for n, selected in enumerate(chosen)
    ]
    first, _ = runs[0]
    # Another target may have some of the layers already.
    runs[1][0].run()
    targets = [target for stream, _ in runs for target in stream.targets]
    together = replace(first, targets=targets)
    together.run()
    assert together.seconds >= targets[0].seconds > 0
    for number, (selected, (_, finish)) in enumerate(zip(chosen, runs, strict=True)):
        alone = quantize(source, selected, samples, tmp_path / f"alone{number}")
        assert differing(finish(), alone) == []


def test_a_recipe_that_moves_weights_is_made_alone(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    stream, finish = prepare(source, recipe("gptq"), samples, tmp_path / "gptq")
    other, finish_other = prepare(source, recipe("nvfp4_default"), samples, tmp_path / "other")
    with pytest.raises(ValueError, match="alone"):
        replace(stream, targets=[*stream.targets, *other.targets])
    finish()
    finish_other()


def test_what_a_layer_saw_gives_its_quantizers_the_same_maxima() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 4)).bfloat16()
    inputs = [torch.randn(1, n, 16).bfloat16() for n in (3, 5)]
    with torch.no_grad(), record_maxima(layer) as maxima:
        for batch in inputs:
            layer(batch)
    assert maxima["0"] == torch.cat(inputs, dim=1).abs().max()
    assert set(maxima) == {"0", "1"}

    def calibrated(run: Any) -> list[torch.Tensor]:
        model: Any = deepcopy(layer)
        mtq.quantize(model, mtq.NVFP4_DEFAULT_CFG, run)
        return [part.input_quantizer.amax for part in model if part.input_quantizer.is_enabled]

    seen = calibrated(lambda model: [model(batch) for batch in inputs] and None)
    shown = calibrated(lambda model: show_maxima(model, maxima))
    assert len(seen) == 2
    assert all(torch.equal(*pair) for pair in zip(seen, shown, strict=True))


# Stopped and taken up again


class Killed(BaseException):
    """What ends a run in these tests; no handler may catch it."""


@pytest.mark.parametrize("name", ["nvfp4_default", "gptq"])
@pytest.mark.parametrize("save_seconds", [0.0, 1e9], ids=["saved", "replayed"])
def test_a_run_that_was_stopped_goes_on_to_the_same_result(
    source: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    save_seconds: float,
) -> None:
    chosen = recipe(name)
    whole = quantize(source, chosen, samples, tmp_path / "whole")
    work, calibrated = tmp_path / "work", list[str]()
    original = stream_module.calibrate

    def calibrate(root: torch.nn.Module, chosen: Recipe, run: Any) -> None:
        (layer,) = root.get_submodule("model.layers").named_children()
        calibrated.append(layer[0])
        if calibrated == ["0", "1"]:
            raise Killed
        original(root, chosen, run)

    monkeypatch.setattr(stream_module, "calibrate", calibrate)
    stream, finish = prepare(source, chosen, samples, work, save_seconds=save_seconds)
    with pytest.raises(Killed):
        stream.run()
    finish()
    assert (work / "hidden_states.safetensors").is_file() == (save_seconds == 0 or name == "gptq")
    again = quantize(source, chosen, samples, work, save_seconds=save_seconds)
    assert calibrated == ["0", "1", "1"]
    assert differing(again, whole) == []


@pytest.mark.parametrize("name", ["nvfp4_default", "gptq"])
def test_a_run_that_was_stopped_before_it_saved_its_states(
    source: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    chosen, work = recipe(name), tmp_path / "work"
    whole = quantize(source, chosen, samples, tmp_path / "whole")

    def save(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "_save", save)
        stream, finish = prepare(source, chosen, samples, work, save_seconds=0.0)
        with pytest.raises(Killed):
            stream.run()
        finish()
    assert len((work / "layers.jsonl").read_text().splitlines()) == 2
    assert differing(quantize(source, chosen, samples, work), whole) == []


def test_finished_layers_whose_bytes_changed_are_made_again(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    chosen = recipe("nvfp4_default")
    before = quantize(source, chosen, samples, tmp_path)
    shard = next(tmp_path.glob("*.safetensors"))
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert differing(quantize(source, chosen, samples, tmp_path), before) == []


@pytest.mark.parametrize("damage", ["garbage", "cut off", "no digests"])
def test_a_damaged_line_of_the_journal_costs_its_part_alone(
    source: Path, samples: list[Sample], tmp_path: Path, damage: str
) -> None:
    chosen = recipe("nvfp4_default")
    before = quantize(source, chosen, samples, tmp_path)
    journal = tmp_path / "layers.jsonl"
    request, *lines = journal.read_text().splitlines()
    ways = {"garbage": "\x00{", "cut off": lines[-1][:30], "no digests": '{"part": "x"}'}
    journal.write_text("\n".join([request, *lines[:-1], ways[damage]]))
    stream, finish = prepare(source, chosen, samples, tmp_path)
    assert len(stream.targets[0].shards.finished) == len(lines) - 1
    finish()
    assert differing(quantize(source, chosen, samples, tmp_path), before) == []


def test_another_request_begins_anew(source: Path, samples: list[Sample], tmp_path: Path) -> None:
    quantize(source, recipe("nvfp4_default"), samples, tmp_path)
    checkpoint = Checkpoint.open(source)
    plan = plan_shards([checkpoint.tensor("model.language_model.norm.weight")], max_bytes=1)
    shards = PlannedShards(tmp_path, plan, request="sha256:another")
    assert shards.finished == {}
    shards.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["layers.jsonl", "model-00001-of-00001.safetensors"]


# Where hidden states are, and how many samples a pass takes


@pytest.mark.parametrize("place", ["host", "disk"])
def test_where_hidden_states_are_kept_changes_nothing(
    source: Path, samples: list[Sample], tmp_path: Path, place: Any
) -> None:
    chosen = recipe("nvfp4_default")
    one = quantize(source, chosen, samples, tmp_path / "one", place="device")
    other = quantize(source, chosen, samples, tmp_path / "other", place=place)
    assert differing(one, other) == []
    assert not list((tmp_path / "other").glob("tmp*"))


def test_hidden_states_move_between_places(tmp_path: Path) -> None:
    states = HiddenStates([3, 2], 4, device=DEVICE, place="device", folder=tmp_path)
    parts = [torch.randn(1, n, 4).bfloat16() for n in (3, 2)]
    for number, part in enumerate(parts):
        states.write(number, part)
    states.move("disk")
    assert states.place == "disk"
    assert all(torch.equal(states.read(number).cpu(), part) for number, part in enumerate(parts))


def test_samples_in_one_pass_give_the_same_weights(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    chosen = recipe("nvfp4_default")
    alone = quantize(source, chosen, samples, tmp_path / "alone")
    packed = quantize(source, chosen, samples, tmp_path / "packed", pack_tokens=128)
    changed = differing(alone, packed)
    # The MLP's products may be summed in another order; maxima then differ in a last bit of bf16.
    assert all(name.endswith("input_scale") for name in changed)
    for name in changed:
        torch.testing.assert_close(alone[name], packed[name], rtol=2**-7, atol=0)


def test_out_of_memory_moves_states_to_the_host(
    source: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = recipe("nvfp4_default")
    whole = quantize(source, chosen, samples, tmp_path / "whole")
    original, calls = stream_module.export, list[str]()

    def export(*arguments: Any, name: str) -> dict[str, torch.Tensor]:
        calls.append(name)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("as a GPU that is too small says")
        return original(*arguments, name=name)

    monkeypatch.setattr(stream_module, "export", export)
    small = quantize(source, chosen, samples, tmp_path / "small", place="device")
    assert [name[-1] for name in calls] == ["0", "1", "1"]
    assert "out of GPU memory: hidden states go to host memory" in capsys.readouterr().err
    assert differing(small, whole) == []


@pytest.mark.parametrize("name", ["nvfp4_default", "local_hessian", "gptq"])
def test_weights_and_scales_are_freed_without_waiting_for_the_collector(
    source: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    original, seen = stream_module.calibrate, list[torch.Tensor]()
    searches = list[weakref.ref[Any]]()

    def held() -> int:
        """Numbers in a layer's own tensors, and calibrators, which hold more of them."""
        return sum(tensor.numel() for tensor in seen) + sum(
            search() is not None for search in searches
        )

    def calibrate(root: Any, *arguments: Any) -> None:
        # Those of the layer before are gone, whoever still refers to them.
        assert held() == 0
        original(root, *arguments)
        seen.extend([*root.parameters(), *root.buffers()])
        quantizers = (module for module in root.modules() if isinstance(module, TensorQuantizer))
        searches.extend(
            weakref.ref(quantizer._calibrator) for quantizer in quantizers if quantizer._calibrator
        )
        assert held() > 0

    monkeypatch.setattr(stream_module, "calibrate", calibrate)
    gc.collect()
    gc.disable()
    try:
        quantize(source, recipe(name), samples, tmp_path / "work")
    finally:
        gc.enable()
    assert len(seen) > 2 * 8
    assert len(searches) > 2 * 8
    assert held() == 0


# What is refused


def broken(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


LAYER = "model.language_model.layers.1"


@pytest.mark.parametrize("name", [f"{LAYER}.mlp.up_proj.weight", f"{LAYER}.input_layernorm.weight"])
def test_a_weight_that_is_not_finite_is_named(
    source: Path, samples: list[Sample], tmp_path: Path, name: str
) -> None:
    folder = broken(source, tmp_path / "broken", lambda t: t[name].view(-1)[3:4].fill_(torch.nan))
    stream, finish = prepare(folder, recipe("nvfp4_default"), samples, tmp_path / "work")
    with pytest.raises(ScionError, match="not finite") as error:
        stream.run()
    finish()
    assert name in error.value.where


def test_a_tensor_that_is_only_copied_must_be_finite_too(source: Path, tmp_path: Path) -> None:
    name = "model.language_model.norm.weight"
    folder = broken(source, tmp_path / "broken", lambda t: t[name][0:1].fill_(torch.inf))
    piece = Checkpoint.open(folder).piece(name)
    raw = piece.path.read_bytes()[piece.offset : piece.offset + piece.tensor.size]
    with pytest.raises(ScionError, match="not finite") as error:
        refuse_not_finite(piece.tensor, raw, piece.path)
    assert name in error.value.where


def test_a_module_whose_weights_are_all_zero_is_named(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    name = f"{LAYER}.mlp.down_proj"
    folder = broken(source, tmp_path / "broken", lambda t: t[f"{name}.weight"].zero_())
    stream, finish = prepare(folder, recipe("nvfp4_default"), samples, tmp_path / "work")
    with pytest.raises(ScionError, match="all weights of a module are zero") as error:
        stream.run()
    finish()
    assert error.value.where == name


@pytest.mark.parametrize("name", ["nvfp4_default", "local_hessian"])
def test_zero_rows_and_blocks_are_packed_as_zeros(
    source: Path, samples: list[Sample], tmp_path: Path, name: str
) -> None:
    stem = f"{LAYER}.mlp.up_proj"

    def clear(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{stem}.weight"][5] = 0
        tensors[f"{stem}.weight"][7, 16:32] = 0

    folder = broken(source, tmp_path / "broken", clear)
    made = quantize(folder, recipe(name), samples, tmp_path / "work")
    decoded = dequantize(*(made[f"{stem}.{suffix}"] for suffix in SUFFIXES[:3]))
    assert torch.isfinite(decoded).all()
    assert not decoded[5].any()
    assert not decoded[7, 16:32].any()
    assert decoded[7].any()


def test_a_missing_tensor_is_named(source: Path, samples: list[Sample], tmp_path: Path) -> None:
    name = f"{LAYER}.post_attention_layernorm.weight"
    folder = broken(source, tmp_path / "broken", lambda t: t.pop(name))
    stream, finish = prepare(folder, recipe("nvfp4_default"), samples, tmp_path / "work")
    with pytest.raises(ScionError, match=r"not as config\.json implies") as error:
        stream.run()
    finish()
    assert name in error.value.where


def test_a_calibration_that_raises_ends_the_run(
    source: Path, samples: list[Sample], tmp_path: Path
) -> None:
    chosen = recipe("nvfp4_default")
    spoilt = replace(chosen, config={**chosen.config, "algorithm": {"method": "max", "x": 1}})
    stream, finish = prepare(source, spoilt, samples, tmp_path / "work")
    with pytest.raises(ScionError, match="ModelOpt could not calibrate a layer"):
        stream.run()
    finish()
    assert len((tmp_path / "work/layers.jsonl").read_text().splitlines()) == 1


# The arithmetic


def test_ties_go_to_the_even_code() -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 5.1, 7.0, 0.0])
    expected = torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, 6.0, 0.0])
    assert torch.equal(round_to_e2m1(ties), expected)


def test_simulated_activations_are_what_the_format_stores() -> None:
    values = torch.randn(7, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    largest = values.abs().amax().float()
    made: Any = NVFP4QTensor.quantize(values, 16, None, largest / (6 * 448))
    decoded = dequantize(made[0]._quantized_data, *made[1:])
    assert torch.equal(fake_quantize_dynamic(values, largest), decoded.bfloat16())


@beside_cuda
def test_torch_simulates_as_modelopts_kernels_for_cuda_do() -> None:
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(96, 512, generator=generator)
    values[3], values[5, 16:32], values[7, 0] = 0, 0, -0.0
    largest = values.abs().amax()
    scales = values.unflatten(1, (-1, 16)).abs().amax(-1) * torch.rand(96, 32, generator=generator)
    for dtype in (torch.bfloat16, torch.float32):
        mine = values.to(dtype)
        theirs: Any = dynamic_block_quantize_op(mine.cuda(), 16, largest.cuda(), 4, 2, 8, 4)
        assert torch.equal(fake_quantize_dynamic(mine, largest), theirs.cpu())
    blocks, given = values.view(-1, 16), scales.view(-1)
    kernels: Any = importlib.import_module("modelopt.torch.kernels.quantization.gemm.fp4_kernel")
    theirs = kernels.static_blockwise_fp4_fake_quant(
        blocks.cuda(), 6 * given.cuda(), quantize_block_scales=False
    )
    ours, theirs = fake_quantize_static(blocks, given), theirs.cpu()
    # The kernel is given six times the scale, and divides it again.
    torch.testing.assert_close(ours, theirs, rtol=2**-22, atol=0)
    usable = torch.where(given > 0, given, 1.0)[:, None]
    codes = [round_to_e2m1((values / usable).abs()) for values in (ours, theirs)]
    assert torch.equal(*codes)


@beside_cuda
@pytest.mark.parametrize("name", ["nvfp4_default", "four_over_six", "mse_sweep"])
def test_a_gpu_and_a_cpu_part_in_last_bits_and_in_codes_on_an_edge(
    source: Path, samples: list[Sample], tmp_path: Path, name: str
) -> None:
    # CUDA multiplies by the reciprocal of a number where a CPU divides by it.
    cpu, gpu = (
        quantize(source, recipe(name), samples, tmp_path / device.type, device=device)
        for device in (CPU, DEVICE)
    )
    changed = dict.fromkeys(("weight", "weight_scale"), 0)
    sizes = dict(changed)
    for key, mine in cpu.items():
        kind = key.rpartition(".")[2]
        if kind == "weight":
            pairs = [torch.stack((packed & 15, packed >> 4)) for packed in (mine, gpu[key])]
        else:
            pairs = [values.float() for values in (mine, gpu[key])]
        if kind in changed:
            changed[kind] += int((pairs[0] != pairs[1]).sum())
            sizes[kind] += pairs[0].numel()
        else:
            torch.testing.assert_close(*pairs, rtol=2**-22, atol=0)
    assert changed["weight"] <= sizes["weight"] / 1000
    assert changed["weight_scale"] <= sizes["weight_scale"] / 500


def test_gptq_moves_weights_as_modelopt_does() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(24, 64, generator=generator)
    inputs = torch.randn(200, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    hessian = inputs.T @ inputs / 200 + 0.1 * torch.eye(64)
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    scales = weight.unflatten(1, (-1, 16)).abs().amax(-1) / 6

    def whole(matrix: torch.Tensor) -> torch.Tensor:
        blocks = matrix.unflatten(1, (-1, 16)) / scales[..., None]
        return (round_to_e2m1(blocks.abs()) * blocks.sign() * scales[..., None]).flatten(1)

    theirs, ours = weight.clone(), weight.clone()
    gptq_blockwise_update(theirs, inverse, 32, whole)
    update(ours, inverse, scales, columns=32)
    assert torch.equal(ours, theirs)

    def loss(matrix: torch.Tensor) -> float:
        return ((matrix - weight) @ hessian * (matrix - weight)).sum().item()

    assert loss(ours) < 0.6 * loss(whole(weight))
