"""What a quantization is said to take, beside what a real one takes."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from checkpoints import edit_json, half_made, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, SAMPLES, Conversion, Pico
from hub_server import HubServer
from own_release import OWN
from random_checkpoint import generate, shaped_config
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.code_digest import module_files
from scion.artifacts.making import Output
from scion.checkpoint.shards import Checkpoint, plan_shards
from scion.common.errors import NoRoomError
from scion.engines.gpus import find_gpu
from scion.quantization.calibration.batch_lengths import pack_lengths
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.samples import Sample
from scion.quantization.config import Calibration, CalibrationSet, Quantization
from scion.quantization.estimate import estimate as estimate_module
from scion.quantization.estimate.estimate import (
    Machine,
    ResourceEstimate,
    estimate,
    refuse_too_small,
)
from scion.quantization.estimate.layer_shapes import ModelShapes
from scion.quantization.estimate.memory import total
from scion.quantization.estimate.rates import DiskRates, Rates, disk_rates, published
from scion.quantization.estimate.report import Use, beside, lines, record
from scion.quantization.estimate.source_headers import source_headers
from scion.quantization.estimate.watch import Watch
from scion.quantization.layerwise.stream import QuantizationTarget, Stream
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.planned_tensors import planned
from scion.quantization.recipe_table import RECIPES
from scion.quantization.recipes import recipe
from scion.stages.quantize_nvfp4 import quantize_nvfp4

CPU = Machine("a CPU", None, 16 << 30)
GPU = Machine("a GPU", 8 << 30, 16 << 30)
RATES = Rates(1e9, 1e9, 1e9, 1e12, 1e11, 1e9, "made up")
SETTINGS = Quantization(recipe="nvfp4_default", max_shard_megabytes=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(max_position_embeddings=1024)
    return write_checkpoint(tmp_path_factory.mktemp("estimate") / "model", config)


@pytest.fixture(scope="module")
def text(folder: Path) -> Checkpoint:
    return source_headers(str(folder)).text


def scion(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scion.cli.main", "estimate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment or None)


# Bytes


def test_the_bytes_of_the_shards_are_exact(conversion: Conversion, pico: Pico) -> None:
    made = conversion.quantize_nvfp4.folder
    written = sum(path.stat().st_size for path in made.glob("*.safetensors"))
    assert written > 0
    source = Checkpoint.open(conversion.extract_text.folder)
    assert estimate(source, SETTINGS, [[8]], CPU).shard_bytes == written
    # Headers of the fine-tune, with its broken keys and its vision tower, say the same.
    assert (
        estimate(source_headers(str(pico.agent)).text, SETTINGS, [[8]], CPU).shard_bytes == written
    )


def test_a_sources_own_head_is_no_part_of_what_is_quantized(pico: Pico) -> None:
    headers = source_headers(str(pico.base))
    assert not any(name.startswith("mtp.") for name in headers.text.shard_of)
    text = sum(headers.text.tensor(name).size for name in headers.text.shard_of)
    assert headers.bytes > text


def test_each_weight_is_read_once_and_what_stays_is_copied(text: Checkpoint) -> None:
    made = estimate(text, SETTINGS, [[8]], CPU)
    sizes = {name: text.tensor(name).size for name in text.shard_of}
    layers = sum(size for name, size in sizes.items() if ".layers." in name)
    assert {part.name: part.size for part in made.read}["decoder layers"] == layers
    quantized = inventory(text.config, where="x").quantized
    stay = sum(
        size for name, size in sizes.items() if name.removesuffix(".weight") not in quantized
    )
    assert {part.name: part.size for part in made.read}["tensors that stay"] == stay


# Work


def test_samples_pass_through_layers_as_often_as_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random_checkpoint._write_companions", lambda *_: None)
    heads = ("num_attention_heads", "num_key_value_heads")
    heads += ("linear_num_key_heads", "linear_num_value_heads")
    text = {"hidden_size": 64, "intermediate_size": 64, **dict.fromkeys(heads, 1)}
    config = shaped_config({"text_config": text, "vision_config": {}}, layers=2)
    generate(tmp_path / "random", config, device="cpu")
    checkpoint = source_headers(str(tmp_path / "random/source")).text
    expected = inventory(checkpoint.config, where="x")
    ids = torch.arange(1, 9)[None]
    batches = pack([Sample(ids, 0, CalibrationSet(), 8)], None)
    seen: Counter[str] = Counter()
    forward = Stream._forward

    def count(self: Any, *arguments: Any) -> None:
        seen[self.targets[0].recipe.name] += 1
        forward(self, *arguments)

    monkeypatch.setattr(Stream, "_forward", count)
    for name in RECIPES:
        chosen = recipe(name)
        plan = plan_shards(planned(checkpoint, chosen.quantized(expected)), max_bytes=10**9)
        shards = PlannedShards(tmp_path / name, plan, request="x")
        Stream(
            checkpoint, expected, [QuantizationTarget(chosen, shards)], batches, torch.device("cpu")
        ).run()
        shards.close()
    assert seen == {
        name: 2 * row.work.passes - row.work.compensated for name, row in RECIPES.items()
    }
    assert {name for name in RECIPES if recipe(name).compensated} == {"gptq", "local_hessian_gptq"}


def test_operations_are_two_a_weight_and_token(text: Checkpoint) -> None:
    made = estimate(text, SETTINGS, [[8], [4, 4]], CPU)
    expected = inventory(text.config, where="x")
    model = ModelShapes.of(
        text.config, expected, dict.fromkeys(expected.quantized, "NVFP4"), where="x"
    )
    weights = sum(
        rows * columns
        for name, (rows, columns) in expected.linear.items()
        if ".layers." in name and name.startswith("model.language_model")
    )
    count = {operation.name: operation.count for operation in made.operations}
    assert count["passes through the layers"] == 2 * weights * 16
    # One layer has attention of 2 heads of 16, where samples of 8, 4 and 4 tokens see themselves;
    # the other a delta net of states [16, 2 × 16].
    assert count["attention and delta nets"] == 2 * (64 + 16 + 16) * 32 + 6 * 16 * 16 * 32
    assert [layer.attention_width for layer in model.layers] == [0, 32]


# Memory


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("machine", [CPU, GPU, replace(CPU, free_bytes=0)])
def test_nothing_shrinks_with_more_samples(text: Checkpoint, recipe: Any, machine: Machine) -> None:
    settings = SETTINGS.model_copy(update={"recipe": recipe})

    def figures(samples: int) -> list[float]:
        made = estimate(text, settings, [[64]] * samples, machine)
        sums = (made.read, made.written, made.disk, made.device, made.host)
        return [
            *map(total, sums),
            made.floor(RATES)[0],
            *(operation.count for operation in made.operations),
        ]

    before = figures(1)
    for samples in (2, 16, 4096):
        after = figures(samples)
        assert all(lower <= higher for lower, higher in zip(before, after, strict=True))
        assert sum(after) > sum(before)
        before = after


def test_layers_in_number_change_no_memory(tmp_path: Path) -> None:
    def made(layers: int) -> ResourceEstimate:
        kinds = ["linear_attention", "full_attention"] * (layers // 2)
        config = tiny_config(num_hidden_layers=layers, layer_types=kinds)
        source = write_checkpoint(tmp_path / str(layers), config)
        return estimate(source_headers(str(source)).text, SETTINGS, [[64]] * 4, GPU)

    small, large = made(4), made(16)
    assert (small.device, small.host) == (large.device, large.host)
    assert total(large.written) > 2 * total(small.written)


def test_hidden_states_go_where_the_run_puts_them(text: Checkpoint) -> None:
    # 2 sets of 4096 tokens of 32 numbers of 2 bytes.
    states = 2 * 4096 * 32 * 2
    for machine, place in (
        (replace(GPU, gpu_bytes=8 * states), "device"),
        (replace(GPU, gpu_bytes=8 * states - 1), "host"),
        (replace(GPU, gpu_bytes=1, free_bytes=2 * states - 1), "disk"),
        (replace(CPU, free_bytes=2 * states), "host"),
    ):
        made = estimate(text, SETTINGS, [[1024]] * 4, machine)
        assert made.place == place
        holding = {"device": made.device, "host": made.host, "disk": made.disk}
        for name, parts in holding.items():
            found = [part.size for part in parts if part.name == "hidden states"]
            assert found == ([states] if name == place else [])


def test_packed_lengths_are_those_of_packed_samples() -> None:
    lengths = [48, 17, 33, 5, 60, 12]
    samples = [Sample(torch.zeros(1, n, dtype=torch.long), 0, CalibrationSet(), n) for n in lengths]
    for most in (None, 1, 50, 65, 500):
        by_number = [[lengths[n] for n in batch] for batch in pack_lengths(lengths, most)]
        assert by_number == [list(batch.lengths) for batch in pack(samples, most)]


# Time


def test_the_longest_of_what_happens_at_once_bounds_the_time(text: Checkpoint) -> None:
    made = estimate(text, SETTINGS, [[8]], CPU)
    hashing = 2 * made.shard_bytes / RATES.hash
    slow = {
        "calculating": replace(RATES, bf16=1.0),
        "reading the source": replace(RATES, read=1.0),
        "writing the shards": replace(RATES, write=1.0),
    }
    for bound, rates in slow.items():
        seconds, found = made.floor(rates)
        assert found == bound
        assert seconds > hashing
    read = total(made.read)
    assert made.floor(slow["reading the source"])[0] == pytest.approx(read + hashing)
    assert made.floor(replace(RATES, hash=1.0))[1] == "hashing the shards"


def test_rates_are_measured_or_published(tmp_path: Path) -> None:
    shard = tmp_path / "shard"
    shard.write_bytes(bytes(100_000))
    for disk in (disk_rates(tmp_path), disk_rates(tmp_path, [shard])):
        assert min(disk.read, disk.write, disk.hash) > 1e6
    assert list(tmp_path.iterdir()) == [shard]
    disk = DiskRates(1e9, 1e9, 1e9)
    h100 = published(find_gpu("h100"), disk)
    assert h100 is not None
    assert h100.bf16 == 989.4e12
    assert published(find_gpu("gb10"), disk) is None


# Refusals


def test_a_disk_that_is_too_small_is_refused(
    text: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = estimate(text, SETTINGS, [[8]], CPU)
    needed = total(made.disk)
    disk = SimpleNamespace(free=needed)
    monkeypatch.setattr(estimate_module.shutil, "disk_usage", lambda _: disk)
    work = tmp_path / "not there yet" / ".work"
    refuse_too_small(made, work)
    disk.free = needed - 1
    with pytest.raises(NoRoomError, match="no room"):
        refuse_too_small(made, work)
    # What a run that was stopped has reserved is not needed twice.
    work.mkdir(parents=True)
    (work / "shard").write_bytes(bytes(4096))
    refuse_too_small(made, work)


def test_a_gpu_without_room_for_a_layer_is_refused(text: Checkpoint, tmp_path: Path) -> None:
    made = estimate(text, SETTINGS, [[8]], GPU)
    enough = replace(made, machine=replace(GPU, gpu_bytes=made.least_device))
    refuse_too_small(enough, tmp_path)
    short = replace(made, machine=replace(GPU, gpu_bytes=made.least_device - 1))
    with pytest.raises(NoRoomError, match="too little memory for one layer"):
        refuse_too_small(short, tmp_path)


# The stage


def again(conversion: Conversion, pico: Pico, output: Path) -> Artifact:
    """quantize_nvfp4 as the conversion ran it, watched."""
    sets = (CalibrationSet(dataset=str(pico.calibration), samples=SAMPLES),)
    settings = SETTINGS.model_copy(update={"calibration": Calibration(sets=sets), "device": "cpu"})
    return quantize_nvfp4(
        text=conversion.extract_text,
        output=Output.at(output),
        settings=settings,
        environment=ENVIRONMENT,
        watch=Watch,
    )


def test_a_run_tells_its_estimate_and_then_what_it_used_and_nothing_else_changes(
    conversion: Conversion, pico: Pico, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = again(conversion, pico, tmp_path / "made")
    assert made.root == conversion.quantize_nvfp4.root
    told = capsys.readouterr().err
    first, _, last = told.partition("beside the run")
    assert "estimate for nvfp4_default on one thread of this CPU: 4 samples" in first
    assert "bounded by" in first
    rows = {line.split(",")[0].split(" (")[0].strip(): line.split() for line in last.splitlines()}
    # Of a floor by the speed of a moment before; what runs beside a test comes and goes.
    assert float(rows["seconds"][-1]) > 0.3
    # The journal and the manifest are not counted beforehand.
    assert 1 <= float(rows["written"][-1]) < 1.2
    assert 0.2 < float(rows["host memory"][-1]) < 5
    again(conversion, pico, tmp_path / "made")
    assert capsys.readouterr().err == "quantize_nvfp4: the store has it\n"


def test_a_small_disk_stops_the_stage_before_it_writes(
    conversion: Conversion, pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(NoRoomError):
        again(conversion, pico, tmp_path / "made")
    assert half_made(tmp_path) == []
    assert not (tmp_path / "made").exists()


def test_what_is_told_is_not_the_stages_code() -> None:
    files = {
        f"{path.parent.name}/{path.name}" for path in module_files("scion.stages.quantize_nvfp4")
    }
    assert "quantization/planned_tensors.py" in files
    assert not {f"estimate/{name}.py" for name in ("watch", "estimate", "rates", "report")} & files


# What is printed


def test_use_stands_beside_the_estimate(text: Checkpoint) -> None:
    made = estimate(text, SETTINGS, [[8]], GPU)
    used = Use(seconds=2.0, device=1 << 20, host=1 << 30, written=1 << 20, before=3)
    told = "\n".join(beside(made, RATES, used))
    assert "GPU memory" in told
    assert "3 parts were finished before" in told
    assert "GPU memory" not in "\n".join(beside(made, None, replace(used, device=None)))


def test_text_and_json_say_the_same(text: Checkpoint) -> None:
    made = estimate(text, SETTINGS, [[8]], GPU)
    told, known = "\n".join(lines(made, RATES)), record(made, RATES)
    for section in ("read", "written", "disk", "gpu_memory", "host_memory"):
        assert sum(known[section]["parts"].values()) == known[section]["bytes"]
        assert all(part in told for part in known[section]["parts"])
    assert known["time"]["bound"] in told
    assert "time" not in record(made, None)


def test_the_command_says_whether_it_fits_and_what_bounds_it(folder: Path) -> None:
    done = scion(folder, "--gpu", "h100", "--samples", 2, "--tokens", 10, "--disk", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 samples, 20 tokens, 2 layers, 2 passes" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("fits: ")
    assert "; " in last
    assert "bounded by" in last


def test_the_command_takes_a_configuration_and_changes_to_it(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "release.yaml"
    own = yaml.safe_load(OWN.format(source=folder, donor=folder, data=folder / "config.json"))
    chats = own["quantization"]["calibration"]["sets"][0]
    few, long = {**chats, "samples": 3, "max_tokens": 50}, {"samples": 1, "max_tokens": 9999}
    own["quantization"] = {"calibration": {"sets": [few, {**chats, **long}]}, "recipe": "gptq"}
    config.write_text(yaml.safe_dump(own))
    there = ("--gpu", "gb10", "--host-gib", 4, "--disk", tmp_path, "--json")
    done = scion(config, *there)
    known = json.loads(done.stdout)
    # The context of 1024 tokens cuts the last one.
    assert (known["samples"], known["tokens"]) == (4, 3 * 50 + 1024)
    assert (known["recipe"], known["passes"], known["fits"]) == ("gptq", 3, True)
    assert known["machine"]["free_bytes"] == 4 << 30
    assert "time" not in known
    changed = scion(config, *there, "--recipe", "nvfp4_default", "--keep-bf16", "attention")
    other = json.loads(changed.stdout)
    assert other["recipe"] == "nvfp4_default"
    assert other["shard_bytes"] > known["shard_bytes"]
    refused = scion(config, "--recipe", "best")
    assert refused.returncode == 1
    assert "--recipe" in refused.stderr
    assert "local_hessian" in refused.stderr


def test_too_little_memory_is_said_and_told_by_the_exit_code(folder: Path) -> None:
    done = scion(folder, "--gpu", "h100", "--host-gib", 0.5, "--disk", folder)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("does not fit, for lack of host memory: ")


@pytest.mark.parametrize("file", ["config.json", "hf_quant_config.json"])
def test_what_is_quantized_already_is_called_so(tmp_path: Path, file: str) -> None:
    # Its names are others too, which alone would be told as a broken checkpoint.
    quantized = write_checkpoint(
        tmp_path / "quantized", tiny_config(), rename=lambda name: f"{name}_packed"
    )
    scheme = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    if file == "config.json":
        edit_json(quantized / file, lambda config: {**config, "quantization_config": scheme})
    else:
        (quantized / file).write_text(json.dumps({"quantization": scheme}))
    done = scion(quantized, "--gpu", "h100", "--disk", tmp_path)
    assert done.returncode == 1
    assert "this checkpoint is quantized already" in done.stderr
    assert str(quantized / file) in done.stderr
    assert "quant_method modelopt, quant_algo NVFP4" in done.stderr
    assert "give the bf16 source" in done.stderr


def test_a_repository_is_estimated_from_its_headers(
    folder: Path, text: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer({"owner/model": folder}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        there = source_headers("hf://owner/model").text
    one, other = (estimate(checkpoint, SETTINGS, [[8]], CPU) for checkpoint in (text, there))
    assert one == other
