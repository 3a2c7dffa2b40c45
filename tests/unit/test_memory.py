"""The prediction of memory, held to what real servers have printed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from checkpoints import TEXT, tiny_config
from scion.architectures.inventory import inventory
from scion.checkpoint.safetensors_file import DTYPE_BITS, Tensor
from scion.common.errors import ScionError
from scion.engines.config import Launch
from scion.engines.gpus import GIB, GPUS, KIB, MIB, find_gpu, memory_text
from scion.engines.registry.engines import parse_engine
from scion.engines.releases import EngineRelease
from scion.engines.vllm.cache_layout import ModelSizes, capacity, layout
from scion.engines.vllm.memory import Prediction, compare_with_server, predict
from scion.engines.vllm.memory_estimates import batch, graph_sizes, weights

PICO = Path(__file__).parents[2] / "resources/pico/pico-agent/config.json"
[V019] = parse_engine("vllm==0.19.1")
[V025] = parse_engine("vllm==0.25.1")
[V032] = parse_engine("vllm==0.32.0")

TEXT_27B = {
    **TEXT,
    **{"hidden_size": 5120, "intermediate_size": 17408, "vocab_size": 248320},
    **{
        "num_hidden_layers": 64,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 16,
    },
    **{"num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 256},
    **{"linear_num_key_heads": 16, "linear_num_value_heads": 48},
    **{"linear_key_head_dim": 128, "linear_value_head_dim": 128},
    **{"mamba_ssm_dtype": "float32", "max_position_embeddings": 262144},
}
CONFIG_27B = {"model_type": "qwen3_5", "text_config": TEXT_27B}
PRODUCTION = Launch(
    name="production",
    title="Production",
    max_model_len=262144,
    max_num_seqs=2,
    kv_cache_dtype="fp8",
    gpu_memory_utilization=0.9,
    speculative_tokens=3,
)


def nvfp4_tensors(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a text-only NVFP4 release, as ModelOpt writes them."""
    expected = inventory(config, where="test")
    kinds: list[tuple[str, str, tuple[int, ...]]] = []
    for name, shape in {**expected.language, **expected.mtp}.items():
        module = name.removesuffix(".weight")
        if module in expected.quantized:
            rows, columns = shape
            kinds += [
                (name, "U8", (rows, columns // 2)),
                (f"{module}.weight_scale", "F8_E4M3", (rows, columns // 16)),
                (f"{module}.weight_scale_2", "F32", ()),
                (f"{module}.input_scale", "F32", ()),
            ]
        else:
            kinds.append((name, "BF16", shape))
    return {
        name: Tensor(name, dtype, shape, 0, math.prod(shape) * DTYPE_BITS[dtype] // 8)
        for name, dtype, shape in kinds
    }


TENSORS_27B = nvfp4_tensors(CONFIG_27B)


def predicted(
    launch: Launch = PRODUCTION,
    *,
    gpu: str = "rtx-pro-6000",
    engine: EngineRelease = V032,
    config: Mapping[str, Any] = CONFIG_27B,
    **changes: Any,
) -> Prediction:
    return predict(
        TENSORS_27B,
        config,
        launch.model_copy(update=changes),
        total=find_gpu(gpu).total_bytes,
        engine=engine,
        where="test",
    )


@pytest.mark.parametrize(
    ("context", "drafts", "printed"),
    [
        *((1024, 0, 599_186), (1024, 1, 349_440), (1024, 3, 232_960)),
        *((2048, 0, 762_600), (2048, 1, 465_920), (2048, 3, 349_440)),
    ],
)
def test_the_embedded_model_on_a_cpu_to_the_token(context: int, drafts: int, printed: int) -> None:
    # vLLM 0.32.0 with VLLM_CPU_KVCACHE_SPACE=1, without prefix caching.
    sizes = ModelSizes.of(json.loads(PICO.read_text()), where=PICO)
    launch = Launch(name="cpu", title="", max_model_len=context, speculative_tokens=drafts)
    blocks = layout(sizes, launch, platform="cpu", prefix_caching=False)
    assert capacity(blocks, GIB, context=context, engine=V032).tokens == printed


def test_the_production_launch_on_an_h100_to_the_token() -> None:
    # vLLM 0.25.1: docs/measurements/qwen3.6-27b-shape-h100.json.
    launch = PRODUCTION.model_copy(update={"gpu_memory_utilization": 0.9})
    sizes = ModelSizes.of(CONFIG_27B, where="test")
    blocks = layout(sizes, launch, prefix_caching=False)
    held = capacity(blocks, round(49.26 * GIB), context=262144, engine=V025)
    assert held.tokens == 1_413_492
    assert round(held.concurrency, 2) == 5.39


def test_the_published_launch_prints_two_numbers_that_look_contradictory() -> None:
    # RTX PRO 6000 Blackwell, vLLM 0.19.1rc1: 491,200 tokens and 6.98 requests of 262,144.
    sizes = ModelSizes.of(CONFIG_27B, where="test")
    blocks = layout(sizes, PRODUCTION, prefix_caching=False)
    assert (blocks.block_tokens, blocks.layers, blocks.state_groups) == (1600, 17, 3)
    assert blocks.request_blocks(262144) == 164 + 3 * 4
    held = capacity(blocks, 1228 * blocks.block_bytes, context=262144, engine=V019)
    assert (held.tokens, round(held.concurrency, 2)) == (491_200, 6.98)


def test_the_published_launch_is_predicted_to_a_few_blocks() -> None:
    found = predicted(engine=V019)
    assert found.capacity.tokens == pytest.approx(491_200, rel=0.01)
    assert found.capacity.concurrency == pytest.approx(6.98, rel=0.01)
    assert found.verdict == "fits"


def test_a_server_on_an_h100() -> None:
    """A 27B model of random weights on vLLM 0.25.1, without prefix caching.

    Its printed 529,329 tokens are 1680 blocks of which a request takes 52, and no other whole
    numbers near what it had free: so its config.json lacked `mamba_ssm_dtype`, and its states were
    bf16.
    """
    launch = Launch(name="h100", title="", max_model_len=16384, max_num_seqs=2)
    launch = launch.model_copy(update={"gpu_memory_utilization": 0.85})
    text = {key: value for key, value in TEXT_27B.items() if key != "mamba_ssm_dtype"}
    config = {**CONFIG_27B, "text_config": text}
    blocks = layout(ModelSizes.of(config, where="test"), launch, prefix_caching=False)
    held = capacity(blocks, 1680 * blocks.block_bytes, context=16384, engine=V025)
    assert (blocks.request_blocks(16384), held.tokens) == (52, 529_329)

    found = predicted(launch, gpu="h100", engine=V025, config=config)
    assert found.weights.loaded / GIB == pytest.approx(18.71, abs=0.05)
    assert found.capacity.tokens == pytest.approx(529_329, rel=0.01)


def test_blocks_that_other_servers_have_printed() -> None:
    # "Setting attention block size to N tokens": 784 in bf16 (docs.lmcache.ai, recipe of Qwen3.6),
    # 1568 in FP8 (noonghunna/club-3090#1047), both without drafts.
    sizes = ModelSizes.of(CONFIG_27B, where="test")
    for dtype, tokens in (("auto", 784), ("fp8", 1568)):
        launch = PRODUCTION.model_copy(update={"speculative_tokens": 0, "kv_cache_dtype": dtype})
        assert layout(sizes, launch, prefix_caching=False).block_tokens == tokens


def test_weights_are_what_the_headers_say() -> None:
    found = weights(TENSORS_27B, drafts=True, text_only=True)
    assert found.parts["MTP head"] == pytest.approx(0.85e9, rel=0.01)
    # The recorded export of 18.95 GB had 26.96e9 parameters; these are 26.90e9, the others bf16.
    language = found.stored - found.parts["MTP head"]
    assert language + (26.96e9 - 26.896e9) * 2 == pytest.approx(18.95e9, rel=0.001)
    without = weights(TENSORS_27B, drafts=False, text_only=True)
    assert without.left_out == found.parts["MTP head"]
    assert "MTP head" not in without.parts
    assert found.padding == 0


def test_scales_are_padded_to_the_tiles_of_fp4_kernels() -> None:
    scale = Tensor("x.weight_scale", "F8_E4M3", (130, 6), 0, 130 * 6)
    assert weights({"x": scale}, drafts=False, text_only=True).padding == 256 * 8 - 130 * 6


def test_the_silent_failure_is_told_before_it_happens() -> None:
    found = predicted(engine=V019, max_num_seqs=4)
    [warning] = found.findings
    assert "0.19.1rc1" in warning.text
    assert "--max-num-seqs 2" in warning.next_step
    assert found.verdict == "fits with warnings"
    assert predicted(engine=V019).findings == ()


@pytest.mark.parametrize(
    "change",
    [{"kv_cache_dtype": "auto"}, {"max_model_len": 131072}, {"speculative_tokens": 2}],
)
def test_the_silent_failure_is_not_told_of_smaller_launches(change: dict[str, Any]) -> None:
    found = predicted(engine=V019, max_num_seqs=4, **change).findings
    assert not any("0.19.1rc1" in finding.text for finding in found)


def test_a_context_that_does_not_fit() -> None:
    found = predicted(gpu="rtx-5090")
    assert found.verdict == "does not fit"
    [problem] = found.findings
    assert "262,144 tokens" in problem.text
    words = problem.next_step.split()
    shorter = int(words[words.index("--max-model-len") + 1].rstrip(","))
    assert predicted(gpu="rtx-5090", max_model_len=shorter).verdict == "fits with warnings"
    assert predicted(gpu="rtx-5090", max_model_len=shorter + 1600).verdict == "does not fit"


def test_weights_alone_can_be_too_large() -> None:
    found = predicted(gpu="rtx-5090", gpu_memory_utilization=0.5)
    assert (found.verdict, found.cache, found.capacity.tokens) == ("does not fit", 0, 0)


def test_more_requests_than_states_do_not_start() -> None:
    found = predicted(gpu="rtx-5090", max_model_len=4096, max_num_seqs=256, speculative_tokens=0)
    assert found.verdict == "does not fit"
    assert f"--max-num-seqs {found.capacity.blocks}" in found.findings[0].next_step
    # vLLM checks it only where whole decode steps are captured, which drafts may prevent.
    drafting = predicted(gpu="rtx-5090", max_model_len=4096, max_num_seqs=256)
    assert drafting.verdict == "fits with warnings"


def test_requests_beyond_the_cache_are_warned_of() -> None:
    found = predicted(max_num_seqs=9, kv_cache_dtype="auto")
    assert any("begun again" in finding.text for finding in found.findings)


def test_what_comes_after_the_cache_needs_room_outside_the_share() -> None:
    assert any(
        "outside" in finding.text for finding in predicted(gpu_memory_utilization=1.0).findings
    )


def test_graphs_are_subtracted_from_0_21_on() -> None:
    old, [first] = predicted(engine=V019), parse_engine("vllm==0.21.0")
    new = predicted(engine=first)
    assert old.cache - new.cache == new.graphs > 0


def test_prefix_caching_takes_a_state_more() -> None:
    assert predicted(engine=V019).layout.states == 4
    assert predicted(engine=V032).layout.states == 5


def test_graphs_of_a_small_batch() -> None:
    assert graph_sizes(PRODUCTION, requests=2, tokens=8192) == ([1, 2, 4, 8, 16], [4, 8])


def test_what_a_launch_leaves_open_depends_on_the_gpu() -> None:
    launch = PRODUCTION.model_copy(update={"max_num_seqs": None})
    assert batch(launch, 31 * GIB) == (256, 2048)
    assert batch(launch, 94 * GIB) == (1024, 8192)
    assert batch(launch, 178 * GIB) == (1024, 16384)
    assert batch(PRODUCTION.model_copy(update={"max_model_len": 512}), 94 * GIB) == (2, 1024)


def test_a_prediction_is_compared_with_a_run() -> None:
    ours = predicted(engine=V019).record()
    run = {
        **{"kv_cache_tokens": 491_200, "concurrency": 6.98},
        "memory": {"weights_gib": None, "kv_cache_gib": 63.71, "graphs_gib": None},
    }
    found = compare_with_server(ours, run)
    assert set(found) == {"kv_cache_tokens", "concurrency", "kv_cache_gib"}
    assert found["kv_cache_gib"]["ratio"] == pytest.approx(1, abs=0.01)
    assert json.loads(json.dumps(ours)) == ours


def test_layouts_at_the_edges() -> None:
    # Only attention: one group, blocks of the smallest size. Only states: a request takes no token.
    for kind, groups in (("full_attention", (1, 0)), ("linear_attention", (0, 1))):
        sizes = ModelSizes.of(tiny_config(layer_types=[kind] * 2), where="test")
        launch = PRODUCTION.model_copy(update={"speculative_tokens": 0})
        blocks = layout(sizes, launch, prefix_caching=False)
        assert (blocks.attention_groups, blocks.state_groups) == groups
        assert blocks.block_bytes > 0


@pytest.mark.parametrize("value", ["float8", 7, ["float32"]])
def test_an_unusable_state_dtype_is_refused(value: object) -> None:
    with pytest.raises(ScionError, match="lacks what"):
        ModelSizes.of(tiny_config(mamba_ssm_dtype=value), where="test")


def test_gpus_report_a_little_less_to_cuda_than_is_listed() -> None:
    for gpu in GPUS:
        assert gpu.source
        if gpu.listed_mib is not None:
            assert 0.98 <= gpu.total_bytes / (gpu.listed_mib * MIB) < 1
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ScionError, match="not known") as error:
        find_gpu("rtx-9999")
    assert "rtx-pro-6000" in error.value.expected


def test_gpus_that_share_the_layers_hold_half_of_each() -> None:
    one, two = predicted(gpu="h100"), predicted(gpu="h100", tensor_parallel=2)
    assert two.weights.loaded == pytest.approx(one.weights.loaded / 2)
    assert two.layout.token_bytes == one.layout.token_bytes // 2
    assert two.capacity.tokens > 2 * one.capacity.tokens
    # Heads can't be cut in seven.
    assert "heads" in predicted(gpu="h100", tensor_parallel=7).findings[0].text


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        (None, 262_144),
        ({"rope_type": "default"}, 262_144),
        ({"rope_type": "yarn", "factor": 4.0}, 1_048_576),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000}, 4000),
        ({"rope_type": "llama3", "factor": 8.0}, 262_144),
        ({"rope_type": "yarn", "factor": "many"}, 262_144),
    ],
)
def test_the_context_is_as_long_as_the_model_was_made_for(rope: object, longest: int) -> None:
    declared: Any = CONFIG_27B["text_config"]
    text = {**declared, "max_position_embeddings": 262_144, "rope_parameters": rope}
    config = {**CONFIG_27B, "text_config": text}
    fits = [
        not any("was made for" in finding.text for finding in made.findings)
        for made in (
            predicted(config=config, max_model_len=length) for length in (longest, longest + 1)
        )
    ]
    assert fits == [True, False]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (80 * GIB, "80.00 GiB"),
        (GIB // 10 + 1, "0.10 GiB"),
        (GIB // 11, "93.09 MiB"),
        (MIB // 2, "0.50 MiB"),
        (3 * KIB, "3.00 KiB"),
        (1, "0.00 KiB"),
        (-5 * MIB, "-5.00 MiB"),
        (0, "0.00 GiB"),
    ],
)
def test_memory_is_told_in_gib_unless_that_says_nothing(count: int, text: str) -> None:
    assert memory_text(count) == text


def test_of_a_mixture_those_experts_count_that_a_token_is_sent_to() -> None:
    path = PICO.parents[1] / "pico-mixture/config.json"
    sizes = ModelSizes.of(json.loads(path.read_bytes()), where=path)
    assert (sizes.attention_layers, sizes.state_layers) == (2, 4)
    # Two experts of width 64, and the shared one.
    assert (sizes.experts_per_token, sizes.intermediate) == (2, 192)
