# Whether packed samples are to a layer what each is alone. A check that can fail: the same checks
# are run on a plain pass over the concatenation, which leaks.

import copy
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from typing import Any

import modelopt.torch.quantization as mtq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache, Qwen3_5ForCausalLM

from conversion import Pico
from scion.common.errors import ScionError
from scion.quantization.calibration.batches import isolated, pack, segment_positions
from scion.quantization.calibration.samples import Sample
from scion.quantization.config import CalibrationSet

# One is a single token, one a chunk of the delta rule, one more than two; as they come, not sorted.
LENGTHS = (70, 3, 129, 1, 64)
# Where the MLP adds in another order, bf16 rounds the last of its 8 bits another way.
LAST_BITS = 2**-7
LAYERS = range(8)


def sample(ids: Tensor) -> Sample:
    return Sample(ids=ids, place=0, origin=CalibrationSet(), full_tokens=ids.numel())


def of_lengths(lengths: Sequence[int]) -> list[Sample]:
    ids = torch.arange(sum(lengths))[None].split(list(lengths), dim=1)
    return [sample(part) for part in ids]


# Which samples share a pass


def test_each_sample_goes_into_the_first_batch_with_room() -> None:
    batches = pack(of_lengths([6, 5, 3, 1, 4, 2]), 10)
    assert [batch.lengths for batch in batches] == [(6, 3, 1), (5, 4), (2,)]
    assert batches[0].ids.tolist() == [[0, 1, 2, 3, 4, 5, 11, 12, 13, 14]]
    assert batches[1].ids.dtype == torch.int64


def test_a_sample_longer_than_the_batch_is_whole_and_alone() -> None:
    assert [batch.lengths for batch in pack(of_lengths([3, 12, 3]), 10)] == [(3, 3), (12,)]


def test_without_a_number_each_sample_is_alone() -> None:
    assert [batch.lengths for batch in pack(of_lengths([3, 1, 3]), None)] == [(3,), (1,), (3,)]
    assert pack([], 10) == []


@given(st.lists(st.integers(1, 20), max_size=20), st.integers(1, 30))
def test_nothing_is_lost_doubled_or_above_the_limit(lengths: list[int], limit: int) -> None:
    batches = pack(of_lengths(lengths), limit)
    ids = [token for batch in batches for token in batch.ids[0].tolist()]
    assert sorted(ids) == list(range(sum(lengths)))
    assert sorted(part for batch in batches for part in batch.lengths) == sorted(lengths)
    for batch in batches:
        assert batch.ids.shape == (1, sum(batch.lengths))
        assert sum(batch.lengths) <= limit or len(batch.lengths) == 1


def test_positions_begin_anew_in_each_segment() -> None:
    positions = segment_positions((3, 1, 2))
    assert positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert positions.dtype == torch.int64


# What a layer makes of them


@pytest.fixture(scope="module")
def model(pico: Pico) -> Generator[Any]:
    """The base model in bf16, on one thread, as calibration on a CPU runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield Qwen3_5ForCausalLM.from_pretrained(pico.base, dtype=torch.bfloat16).eval()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def samples(pico: Pico) -> list[Tensor]:
    tokenizer: Any = AutoTokenizer.from_pretrained(pico.base)
    rows = [json.loads(line) for line in pico.calibration.open()]
    texts = [row["messages"][-1]["content"] + json.dumps(row["tools"]) for row in rows]
    ids = [tokenizer(text)["input_ids"] for text in texts if len(text) > 1000]
    return [torch.tensor([part[:length]]) for part, length in zip(ids, LENGTHS, strict=False)]


@pytest.fixture(scope="module")
def states(model: Any, samples: list[Tensor]) -> list[list[Tensor]]:
    """The hidden states in front of each layer and behind the last, of each sample run alone."""
    behind = [model.model.embed_tokens(ids) for ids in samples]
    states = [behind]
    for layer in model.model.layers:
        behind = [layer(state, **arguments(model, (state.shape[1],))) for state in behind]
        states.append(behind)
    return states


def arguments(model: Any, lengths: tuple[int, ...]) -> dict[str, Any]:
    """What the model calls its layers with, without a mask; positions begin anew."""
    positions = segment_positions(lengths)
    embeddings = model.model.rotary_emb(
        torch.empty(0, dtype=torch.bfloat16), positions.expand(3, 1, -1)
    )
    return {
        "position_embeddings": embeddings,
        "position_ids": positions,
        "attention_mask": None,
        "past_key_values": None,
        "use_cache": False,
    }


def packed(model: Any, layer: nn.Module, parts: Sequence[Tensor]) -> Sequence[Tensor]:
    lengths = tuple(part.shape[1] for part in parts)
    with isolated(layer, lengths):
        made = layer(torch.cat(list(parts), dim=1), **arguments(model, lengths))
    return made.split(lengths, dim=1)


def leaking(model: Any, layer: nn.Module, parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Like `packed`, but as one sequence."""
    lengths = [part.shape[1] for part in parts]
    made = layer(torch.cat(list(parts), dim=1), **arguments(model, (sum(lengths),)))
    return made.split(lengths, dim=1)


def check_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for actual, wanted in zip(found, expected, strict=True):
        assert (actual - wanted).abs().max() <= LAST_BITS * wanted.abs().max()


def mixer(layer: Any) -> nn.Module:
    return layer.linear_attn if hasattr(layer, "linear_attn") else layer.self_attn


def mixed(layer: Any, call: Callable[[], object]) -> list[Tensor]:
    """What the mixer gives during a call."""
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = mixer(layer).register_forward_hook(keep)
    call()
    handle.remove()
    return seen


@pytest.mark.parametrize("number", LAYERS)
def test_a_segment_gets_what_the_sample_alone_gets(
    model: Any, states: list[list[Tensor]], number: int
) -> None:
    layer, before, after = model.model.layers[number], states[number], states[number + 1]
    check_same(packed(model, layer, before), after)
    with pytest.raises(AssertionError):
        check_same(leaking(model, layer, before)[1:], after[1:])


@pytest.mark.parametrize("number", LAYERS)
def test_the_mixer_gives_the_same_bits(model: Any, states: list[list[Tensor]], number: int) -> None:
    layer, before = model.model.layers[number], states[number]
    alone = [
        mixed(layer, lambda state=state: layer(state, **arguments(model, (state.shape[1],))))[0]
        for state in before
    ]
    (together,) = mixed(layer, lambda: packed(model, layer, before))
    (leaked,) = mixed(layer, lambda: leaking(model, layer, before))
    assert torch.equal(together, torch.cat(alone, dim=1))
    assert not torch.equal(leaked, torch.cat(alone, dim=1))


@pytest.mark.parametrize("number", LAYERS)
def test_no_bit_of_a_segment_depends_on_another(
    model: Any, states: list[list[Tensor]], number: int
) -> None:
    layer, before = model.model.layers[number], states[number]
    others = [before[0].flip(1), *before[1:]]
    for run, same in ((packed, True), (leaking, False)):
        first, second = run(model, layer, before), run(model, layer, others)
        assert not torch.equal(first[0], second[0])
        pairs = zip(first[1:], second[1:], strict=True)
        assert all(torch.equal(values, other_values) for values, other_values in pairs) == same


def test_the_whole_model_gives_each_segment_its_own_logits(
    model: Any, samples: list[Tensor]
) -> None:
    alone = [model(input_ids=ids, use_cache=False).logits for ids in samples]
    (batch,) = pack([sample(ids) for ids in samples], 1000)
    inputs = {"input_ids": batch.ids, "position_ids": segment_positions(batch.lengths)}
    with ExitStack() as stack:
        for layer in model.model.layers:
            stack.enter_context(isolated(layer, batch.lengths))
        together = model(**inputs, use_cache=False).logits.split(batch.lengths, dim=1)
    for joint, separate in zip(together, alone, strict=True):
        # Last bits of eight layers add up.
        assert (joint - separate).abs().max() <= 8 * LAST_BITS * separate.abs().max()
    # transformers keeps the segments apart in attention, by their positions, but not in the state.
    leaked = model(**inputs, use_cache=False).logits.split(batch.lengths, dim=1)
    assert (leaked[2] - alone[2]).abs().max() > 8 * LAST_BITS * alone[2].abs().max()


# What ModelOpt sees


def maxima(layer: nn.Module, run: Callable[[Any], Any]) -> dict[str, Tensor]:
    """The largest input of each quantized module, after a calibration by `run`."""
    quantized = copy.deepcopy(layer)
    mtq.quantize(quantized, mtq.NVFP4_DEFAULT_CFG, run)
    found: dict[str, Tensor] = {}
    for name, module in quantized.named_modules():
        quantizer: Any = module
        if name.endswith("input_quantizer") and quantizer.is_enabled:
            found[name] = quantizer.amax
    return found


def test_activation_maxima_are_those_of_the_samples_alone(
    model: Any, states: list[list[Tensor]]
) -> None:
    differing = 0
    for layer, before in zip(model.model.layers, states, strict=False):

        def one_by_one(layer: nn.Module, before: list[Tensor] = before) -> None:
            for state in before:
                layer(state, **arguments(model, (state.shape[1],)))

        alone = maxima(layer, one_by_one)
        together = maxima(layer, lambda layer, before=before: packed(model, layer, before))
        leaked = maxima(layer, lambda layer, before=before: leaking(model, layer, before))
        assert alone.keys() == together.keys()
        assert len(alone) >= 6
        for name, value in alone.items():
            # Behind the MLP's first products, sums over another number of rows; else the same bits.
            tolerance = LAST_BITS if "down_proj" in name else 0
            assert abs(together[name] - value) <= tolerance * value, name
        differing += any(
            abs(leaked[name] - value) > LAST_BITS * value for name, value in alone.items()
        )
    # A leak shows only where it reaches the token that has the maximum.
    assert differing > len(LAYERS) / 2


# The context itself


def test_the_layer_is_afterwards_as_it_was(model: Any, states: list[list[Tensor]]) -> None:
    layer = model.model.layers[0]
    with pytest.raises(ScionError), isolated(layer, (2, 3)):
        layer(states[0][0], **arguments(model, (70,)))
    assert "forward" not in vars(mixer(layer))
    own = mixer(layer).forward
    vars(mixer(layer))["forward"] = own
    with isolated(layer, (2, 3)):
        assert vars(mixer(layer))["forward"] is not own
    assert vars(mixer(layer)).pop("forward") is own


def test_one_segment_is_run_as_it_is(model: Any) -> None:
    layer = model.model.layers[0]
    with isolated(layer, (5,)):
        assert "forward" not in vars(mixer(layer))


@pytest.mark.parametrize(
    ("number", "changed", "where"),
    [
        (0, {}, "hidden_states"),
        (3, {"position_ids": torch.arange(70)[None]}, "position_ids"),
        (3, {"past_key_values": DynamicCache()}, "past_key_values"),
        (0, {"past_key_values": DynamicCache()}, "cache_params"),
        (0, {"seq_idx": torch.zeros(1, 70)}, "seq_idx"),
    ],
)
def test_arguments_of_other_segments_or_of_a_cache_are_refused(
    model: Any, states: list[list[Tensor]], number: int, changed: dict[str, Any], where: str
) -> None:
    layer = model.model.layers[number]
    lengths = (30, 40) if changed else (30, 41)
    inputs = {**arguments(model, lengths), **changed}
    refused = pytest.raises(ScionError, match="can't run over packed samples")
    with refused as caught, isolated(layer, lengths):
        layer(states[number][0], **inputs)
    assert caught.value.where == where


def test_a_layer_without_a_known_mixer_or_with_eager_attention_is_refused(model: Any) -> None:
    with pytest.raises(ScionError, match="can't run over packed samples"):
        isolated(nn.Linear(2, 2), (2, 3)).__enter__()
    layer = copy.deepcopy(model.model.layers[3])
    layer.self_attn.config = copy.copy(layer.self_attn.config)
    layer.self_attn.config._attn_implementation = "eager"
    with pytest.raises(ScionError, match="can't run over packed samples") as caught:
        isolated(layer, (2, 3)).__enter__()
    assert caught.value.found == "eager"
