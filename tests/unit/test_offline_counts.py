"""What is counted, what `scion acceptance` says, and what it refuses."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import edit_json, tiny_config
from conversion import Pico
from scion.architectures.inventory import inventory
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.cli.main import main
from scion.common.errors import ScionError
from scion.evaluation.chats import Chat
from scion.evaluation.offline.acceptance import Acceptance, Counts, count_rounds, measure_offline
from scion.evaluation.offline.prompts import end_tokens, load_tokenizer, prompt_ids
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights

CHAT = Chat("one", [{"role": "user", "content": "Is 955 or 927 smaller?"}], None, {})
SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def sound(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bf16 checkpoint of random weights, with the tokenizer of the embedded pair."""
    folder = tmp_path_factory.mktemp("sound")
    for path in pico.agent.iterdir():
        if "safetensors" not in path.name:
            shutil.copy(path, folder)
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    config = tiny_config(vocab_size=1024, max_position_embeddings=256, rope_parameters=rope)
    config |= {"architectures": ["Qwen3_5ForConditionalGeneration"], "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    expected = inventory(config, where=folder)
    shapes = {**expected.language, **expected.mtp}
    save_file(
        {
            name: torch.randn(shape, generator=generator).bfloat16()
            for name, shape in shapes.items()
        },
        folder / SHARD,
    )
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(sound, tmp_path / "release")


def rounds(text: str, length: int, drafted: dict[int, str]) -> tuple[int, tuple[int, ...]]:
    """Count with letters for tokens, and drafts by how many letters they follow."""
    tokens = [ord(letter) for letter in text]
    lengths: list[int] = []

    def draft(so_far: list[int], count: int) -> list[int]:
        assert so_far == tokens[: len(so_far)]
        lengths.append(len(so_far))
        assert len(drafted[len(so_far)]) == count
        return [ord(letter) for letter in drafted[len(so_far)]]

    counted = count_rounds(tokens, length, draft, 3)
    assert lengths == sorted(drafted), "each round begins after the accepted tokens and one more"
    return counted


def test_rounds():
    # a, then bcd + e, then g is wrong: f, then g right, x wrong: h.
    drafted = {1: "bcd", 5: "gfg", 6: "gxi"}
    assert rounds("abcdefghijk", 8, drafted) == (3, (2, 1, 1))


def test_a_right_draft_after_a_wrong_one_is_not_accepted():
    assert rounds("abcdef", 3, {1: "xcd", 2: "xde"}) == (2, (0, 0, 0))


def test_drafts_beyond_the_end_count_as_accepted():
    """The reply is cut after the counting: c and d lie beyond one of two tokens."""
    assert rounds("abcde", 2, {1: "bcd"}) == (1, (1, 1, 1))
    assert rounds("abcde", 2, {1: "bxd"}) == (1, (1, 0, 0))


def test_a_reply_that_ends_with_the_accepted_run_needs_no_round_more():
    assert rounds("abcdefgh", 5, {1: "bcd"}) == (1, (1, 1, 1))
    assert rounds("abcdefghi", 6, {1: "bcd", 5: "fgx"}) == (2, (2, 2, 1))


def test_nothing_is_drafted_for_the_first_token():
    assert rounds("abcd", 1, {}) == (0, (0, 0, 0))


def test_estimates_and_record_agree_with_the_counts():
    counts = (
        Counts("a", 5, (1, 2, 3, 4), drafts=2, accepted=(2, 1)),
        Counts("b", 5, (1, 2), drafts=1, accepted=(0, 0)),
        Counts("c", 5, (1,), drafts=0, accepted=(0, 0)),
    )
    result = Acceptance(2, 9, "bf16", "cpu", counts)
    assert (result.drafts, result.accepted) == (3, (2, 1))
    assert [estimate.value for estimate in result.per_position()] == [2 / 3, 1 / 3]
    assert result.mean_length().value == 1 + 3 / 3
    record = json.loads(json.dumps(result.record()))
    assert record["draft_tokens"] == 6
    assert [estimate["count"] for estimate in record["per_position"]] == [3, 3]
    assert sum(prompt["drafts"] for prompt in record["prompts"]) == record["drafts"]


def test_ends_are_the_tokenizers_and_the_configurations(pico: Pico):
    tokenizer = load_tokenizer(pico.agent)
    assert tokenizer.eos_token_id == 2
    assert end_tokens(pico.agent, tokenizer) == {0, 2}


def test_arguments_and_reasoning_reach_the_template(pico: Pico):
    call = {"type": "function", "function": {"name": "look", "arguments": '{"where": "Oslo"}'}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "content": "rain"},
    ]
    tokenizer = load_tokenizer(pico.agent)
    text = tokenizer.decode(prompt_ids(tokenizer, Chat("x", messages, None, {})))
    assert "<think>\nHm.\n</think>" in text
    assert "<parameter=where>\nOslo\n</parameter>" in text


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: object) -> int:
    prompts = folder.parent / "prompts.jsonl"
    lines = [{"name": "one", "messages": CHAT.messages}, {"messages": CHAT.messages * 2}]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    arguments = ["scion", "acceptance", folder, "--prompts", prompts, "--device", "cpu", *options]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    return main()


def test_command(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    output = tmp_path / "acceptance.json"
    options = ("--draft-tokens", 2, "--reply-tokens", 12, "--output", output)
    assert run(monkeypatch, folder, *options) == 0
    record = json.loads(output.read_text())
    assert [prompt["name"] for prompt in record["prompts"]] == ["one", "line 2"]
    assert record["activations"] == "bf16", "nothing is in NVFP4 here"
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + 2 + 2
    cells = printed[1].split()
    assert cells[:3] == ["1", str(record["drafts"]), str(record["accepted_by_position"][0])]
    assert printed[3].startswith(f"mean length {record['mean_length']['value']:.2f} of 3")


def test_command_tells_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(monkeypatch, folder, "--limit", 3) == 1
    assert "the chats can't be used" in capsys.readouterr().err


def edit_config(change: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", change)


def edit_tensors(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / SHARD)
        change(tensors)
        save_file(tensors, folder / SHARD)

    return edit


NORM = "model.language_model.norm.weight"
Q_PROJ = "model.language_model.layers.1.self_attn.q_proj.weight"
FP8 = {"quant_method": "modelopt", "quant_algo": "FP8"}


@pytest.mark.parametrize(
    ("damage", "problem", "detail"),
    [
        (edit_tensors(lambda t: t.pop("mtp.fc.weight")), "MTP head is not", "no mtp.fc.weight"),
        (edit_tensors(lambda t: t.pop(NORM)), "a tensor is not in this folder", NORM),
        (edit_tensors(lambda t: t.update({NORM: t[NORM][1:]})), "not stored as", "bfloat16 [31]"),
        (
            edit_tensors(lambda t: t.update({Q_PROJ: t[Q_PROJ].to(torch.float8_e4m3fn)})),
            "not stored as",
            "float8_e4m3fn [64, 32]",
        ),
        (
            edit_tensors(lambda t: t.update({f"{Q_PROJ}_scale": torch.ones(64, 2)})),
            "not stored as",
            "uint8 [64, 16]",
        ),
        (edit_config(lambda c: c.update(model_type="qwen3_5_moe")), "architecture", "qwen3_5_moe"),
        (edit_config(lambda c: c.update(architectures=["Other"])), "architecture", "Other"),
        (edit_config(lambda c: c.update(quantization_config=FP8)), "this quantization", "FP8"),
        (
            edit_config(lambda c: c["text_config"].update(mtp_num_hidden_layers=2)),
            "several layers",
            "mtp_num_hidden_layers 1",
        ),
        (
            edit_config(lambda c: c["text_config"].update(max_position_embeddings=64)),
            "too long for the model",
            "prompt one",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer can't", "lint"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text(
                "{{ raise_exception('no') }}"
            ),
            "can't render",
            "prompt one",
        ),
    ],
)
def test_refused(folder: Path, damage: Callable[[Path], object], problem: str, detail: str):
    damage(folder)
    with pytest.raises(ScionError, match=problem) as caught:
        measure_offline(folder, [CHAT], reply_tokens=40, device="cpu")
    assert detail in str(caught.value)


def test_replies_of_one_token(folder: Path):
    with pytest.raises(ScionError, match="nothing was drafted"):
        measure_offline(folder, [CHAT], reply_tokens=1, device="cpu")


def test_fused_matrices_share_the_largest_scale(release: Path, tmp_path: Path):
    """As in vLLM, where q, k and v are one matrix."""
    folder = shutil.copytree(release, tmp_path / "release")
    checkpoint = Checkpoint.open(folder)
    parts = [f"model.language_model.layers.3.self_attn.{part}_proj" for part in "qkv"]
    shard = folder / checkpoint.shard_of[f"{parts[1]}.input_scale"]
    tensors = load_file(shard)
    tensors[f"{parts[1]}.input_scale"] *= 3
    shard.unlink()
    save_file(tensors, shard)
    weights = Weights(Checkpoint.open(folder), device=torch.device("cpu"), activations="nvfp4")
    target = Target(weights)
    attention = target._model.layers[3].self_attn
    scales = [getattr(attention, f"{part}_proj")._input_scale for part in "qkv"]
    assert scales == [tensors[f"{parts[1]}.input_scale"]] * 3


def test_activations_that_no_scale_was_stored_for(release: Path, tmp_path: Path):
    folder = shutil.copytree(release, tmp_path / "release")
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        shard.unlink()
        save_file({n: t for n, t in tensors.items() if not n.endswith("input_scale")}, shard)
    edit_json(
        folder / INDEX,
        lambda index: index.update(
            weight_map={n: s for n, s in index["weight_map"].items() if "input_scale" not in n}
        ),
    )
    with pytest.raises(ScionError, match="not in this folder") as caught:
        measure_offline(folder, [CHAT], reply_tokens=3, device="cpu")
    assert "--activations bf16" in caught.value.hint
    result = measure_offline(folder, [CHAT], reply_tokens=3, device="cpu", activations="bf16")
    assert (result.activations, result.drafts > 0) == ("bf16", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(folder: Path):
    with pytest.raises(ScionError, match="no GPU"):
        measure_offline(folder, [CHAT], device="cuda")
