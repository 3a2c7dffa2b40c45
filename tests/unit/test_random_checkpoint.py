import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import random_checkpoint
from checkpoints import half_made, snapshot
from conversion import ENVIRONMENT, Pico
from random_checkpoint import SHAPES, generate, initial, shaped_config
from scion.architectures.inventory import inventory
from scion.artifacts.making import Output
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.engines.registry.engines import parse_engines
from scion.lint.all_rules import RULES
from scion.lint.config import Lint
from scion.lint.rule import run, select_rules
from scion.lint.subject import Subject
from scion.stages.extract_text import extract_text
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.lint_source import lint_source

# What is not named is the embedded model's.
TINY: dict[str, Any] = {
    "text_config": {
        "eos_token_id": 99,
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 4096,
        "num_hidden_layers": 4,
        "vocab_size": 2000,
    },
    "vision_config": {"depth": 1, "out_hidden_size": 64},
}
CONFIG = shaped_config(TINY)
SHARD_GIGABYTES = 4e-4


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """source/ and base/ of the tiny shape; read only."""
    output = tmp_path_factory.mktemp("random") / "made"
    generate(output, CONFIG, device="cpu", shard_gigabytes=SHARD_GIGABYTES)
    return output


def test_the_tensors_are_those_of_the_inventory(generated: Path) -> None:
    expected = inventory(CONFIG, where="x")
    source, base = Checkpoint.open(generated / "source"), Checkpoint.open(generated / "base")
    assert source.shapes() == expected.language | expected.vision
    assert base.shapes() == expected.mtp
    assert len(base.shard_of) == 15
    tensors = [source.tensor(name) for name in source.shard_of]
    assert {tensor.dtype for tensor in tensors} == {"BF16"}


def test_shards_are_small_enough_and_the_tower_has_its_own(generated: Path) -> None:
    source = Checkpoint.open(generated / "source")
    assert len(source.headers) > 2
    for header in source.headers.values():
        towers = {name.startswith("model.visual.") for name in header.tensors}
        assert len(towers) == 1
        size = sum(tensor.size for tensor in header.tensors.values())
        assert size <= SHARD_GIGABYTES * 1e9 or len(header.tensors) == 1


def test_lint_misses_the_head_alone(generated: Path) -> None:
    subject = Subject.open(
        open_source(str(generated / "source")),
        engines=parse_engines(("vllm", "sglang")),
        tensor_parallel=(1,),
    )
    results = run(subject, select_rules(RULES))
    # T609 is of the embedded pair's chat template, which it has.
    assert {result.rule.code for result in results} == {"M301", "T609"}


def test_the_stages_take_both(generated: Path, tmp_path: Path) -> None:
    source = fetch_source(
        location=str(generated / "source"),
        output=Output.at(tmp_path / "fetch_source"),
        environment=ENVIRONMENT,
    )
    lint_source(
        source=source, output=Output.at(tmp_path / "lint"), settings=Lint(), environment=ENVIRONMENT
    )
    fixed = fix_keys(
        source=source, output=Output.at(tmp_path / "fix_keys"), environment=ENVIRONMENT
    )
    assert (fixed.facts["renamed_tensors"], fixed.facts["mtp_missing"]) == (0, True)
    text = extract_text(
        fixed=fixed,
        output=Output.at(tmp_path / "text"),
        environment=ENVIRONMENT,
    )
    # No shard holds a part of the tower, so none is copied: 54 GB less at full size.
    for name, header in Checkpoint.open(text.folder).headers.items():
        original = source.tensors()[next(iter(header.tensors))]["file"]
        assert (text.folder / name).samefile(generated / "source" / original)
    donor = fetch_donor(
        location=str(generated / "base"),
        output=Output.at(tmp_path / "donor"),
        environment=ENVIRONMENT,
    )
    assert donor.facts["mtp_tensors"] == 15


def test_weights_begin_as_before_training(generated: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for path in generated.glob("*/*.safetensors"):
        tensors |= load_file(path)
    layer = "model.language_model.layers.0."
    for name, tensor in tensors.items():
        kind, numbers = initial(name, tuple(tensor.shape)), tensor.float()
        if kind == "normal" and numbers.numel() > 1000:
            assert abs(numbers.mean()) < 0.004, name
            assert 0.018 < numbers.std() < 0.022, name
        elif kind in ("zeros", "ones"):
            assert (numbers == (kind == "ones")).all(), name
    assert initial("mtp.norm.weight", (8,)) == initial(f"{layer}x_norm.weight", (8,)) == "zeros"
    assert initial(f"{layer}linear_attn.norm.weight", (8,)) == "ones"
    assert initial("model.visual.merger.norm.weight", (8,)) == "ones"
    decay = tensors[f"{layer}linear_attn.A_log"].float()
    assert (decay >= 0).all()
    assert (decay < 2.78).all()
    assert len(decay.unique()) > 1


def test_the_same_seed_gives_the_same_bytes_in_whatever_shards(
    generated: Path, tmp_path: Path
) -> None:
    generate(tmp_path / "again", CONFIG, device="cpu", shard_gigabytes=SHARD_GIGABYTES)
    assert snapshot(tmp_path / "again") == snapshot(generated)
    generate(tmp_path / "one", CONFIG, device="cpu")
    generate(tmp_path / "other", CONFIG, device="cpu", seed=1)
    name = "model.language_model.embed_tokens.weight"
    folders = (generated, tmp_path / "one", tmp_path / "other")
    first, same_seed, other_seed = (_numbers(folder / "source", name) for folder in folders)
    assert first == same_seed != other_seed


def _numbers(folder: Path, name: str) -> bytes:
    piece = Checkpoint.open(folder).piece(name)
    return piece.path.read_bytes()[piece.offset :][: piece.tensor.size]


def test_tensors_longer_than_a_chunk_go_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_checkpoint, "_CHUNK", 1024)
    generate(tmp_path / "made", CONFIG, device="cpu")
    numbers = _numbers(tmp_path / "made/source", "model.language_model.embed_tokens.weight")
    chunks = [numbers[begin : begin + 2048] for begin in range(0, len(numbers), 2048)]
    assert len(chunks) == len(set(chunks)) == 125


def test_every_id_is_a_token_and_text_is_encoded_as_before(generated: Path, pico: Pico) -> None:
    tokenizer = AutoTokenizer.from_pretrained(generated / "source")
    embedded = AutoTokenizer.from_pretrained(pico.agent)
    chat = [{"role": "user", "content": "Is w1024 or w1999 warmer than Tokyo? été 中"}]
    text = embedded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text
    assert tokenizer.encode(text) == embedded.encode(text)
    assert len(tokenizer) == CONFIG["text_config"]["vocab_size"]
    assert tokenizer.decode([1024, 1999]) == " w1024 w1999"
    assert None not in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokenizer.model_max_length == 4096
    # The shape's own ids are of another tokenizer.
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == CONFIG["text_config"]["eos_token_id"]


def test_the_published_shape_has_the_published_sizes() -> None:
    config = shaped_config(json.loads((SHAPES / "qwen3.6-27b.json").read_bytes()))
    expected = inventory(config, where="x")
    text = config["text_config"]
    assert [len(text["layer_types"]), text["layer_types"].count("full_attention")] == [64, 16]
    assert len(expected.vision) == 333
    mrope = text["rope_parameters"]
    rotated = text["head_dim"] * mrope["partial_rotary_factor"]
    assert 2 * sum(mrope["mrope_section"]) == rotated
    parameters = sum(torch.Size(shape).numel() for shape in expected.language.values())
    assert round(parameters / 1e9, 2) == 26.90


def test_fewer_layers_end_with_attention() -> None:
    config = shaped_config(json.loads((SHAPES / "qwen3.6-27b.json").read_bytes()), layers=8)
    assert (
        config["text_config"]["layer_types"] == (["linear_attention"] * 3 + ["full_attention"]) * 2
    )


@pytest.mark.slow
def test_the_command_writes_nothing_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text(json.dumps(TINY))
    script = Path(random_checkpoint.__file__)
    arguments = ["--shape", str(tmp_path / "shape.json"), "--layers", "2", "--device", "cpu"]
    command = [sys.executable, str(script), str(tmp_path / "made"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    sizes = [
        Checkpoint.open(tmp_path / "made" / name).piece(tensor).tensor.size
        for name in ("source", "base")
        for tensor in Checkpoint.open(tmp_path / "made" / name).shard_of
    ]
    assert result["bytes"] == sum(sizes)
    before = snapshot(tmp_path)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "there already" in again.stderr
    assert snapshot(tmp_path) == before


def test_nothing_half_made_is_left(tmp_path: Path) -> None:
    small = shaped_config({**TINY, "text_config": {**TINY["text_config"], "vocab_size": 1000}})
    with pytest.raises(ScionError, match="vocabulary is too small"):
        generate(tmp_path / "made", small, device="cpu")
    assert not (tmp_path / "made").exists()
    assert not half_made(tmp_path)
    large = shaped_config({**TINY, "text_config": {"vocab_size": 1 << 24, "hidden_size": 1 << 24}})
    with pytest.raises(ScionError, match="does not fit"):
        generate(tmp_path / "made", large, device="cpu")
