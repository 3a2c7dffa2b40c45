"""Named facts about how engines read declarations; the bulk is compared in e2e."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loader_cases
from scion.engines.registry.decisions import Decision, decisions, is_modelled, scheme_problems
from scion.engines.registry.engines import DEFAULT_ENGINES, ENGINES, parse_engine
from scion.engines.releases import EngineRelease

QWEN = "Qwen3_5ForConditionalGeneration"
LAYER = "model.language_model.layers"
MTP = ("mtp.fc", "mtp.layers.0.self_attn.q_proj", "mtp.layers.0.mlp.down_proj")
[VLLM], [SGLANG], [TENSORRT] = map(parse_engine, ("vllm", "sglang", "tensorrt-llm"))
[OLD] = parse_engine("vllm==0.19.1")


def config(*ignore: str, architecture: str = QWEN, **scheme: Any) -> dict[str, Any]:
    declared = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": list(ignore)}
    return {"architectures": [architecture], "quantization_config": declared | scheme}


def decide(engine: EngineRelease, module: str, *ignore: str, **changes: Any) -> Decision:
    return decisions(engine, config(*ignore, **changes), None, [module])[module]


def excluded(engine: EngineRelease, module: str, *ignore: str, **changes: Any) -> bool:
    decision = decide(engine, module, *ignore, **changes)
    assert decision.problem is None
    return decision.algorithm is None


def problems(engine: EngineRelease, **scheme: Any) -> list[str]:
    return [problem.text for problem in scheme_problems(engine, config(**scheme), None)]


@pytest.mark.parametrize("engine", [OLD, VLLM, SGLANG])
def test_mtp_star_covers_the_head(engine: EngineRelease):
    assert all(excluded(engine, module, "mtp*") for module in MTP)


def test_mtp_layers_star_misses_fc():
    assert excluded(OLD, MTP[1], "mtp.layers.0*")
    assert not excluded(OLD, "mtp.fc", "mtp.layers.0*")
    # From 0.20 vLLM builds it unquantized by force, and says so as the reason.
    assert "whatever the list says" in decide(VLLM, "mtp.fc", "mtp.layers.0*").reason


def test_regex_matches_nothing_under_modelopt():
    assert not any(excluded(OLD, module, "re:^mtp.*") for module in MTP)


@pytest.mark.parametrize("engine", [OLD, VLLM])
def test_globs_of_parts_miss_the_fused_layer(engine: EngineRelease):
    module = f"{LAYER}.0.linear_attn.in_proj_a"
    globs = ("*linear_attn.in_proj_a*", "*linear_attn.in_proj_b*")
    decision = decide(engine, module, *globs)
    assert decision.layer == "language_model.model.layers.0.linear_attn.in_proj_ba"
    assert decision.algorithm == "NVFP4"
    exact = [f"{LAYER}.0.linear_attn.in_proj_{part}" for part in "ab"]
    assert excluded(engine, module, *exact)
    assert not excluded(engine, f"{LAYER}.0.self_attn.q_proj", "*self_attn.q_proj")


def test_one_part_of_a_group_is_refused():
    module = f"{LAYER}.3.self_attn.q_proj"
    for engine in (OLD, VLLM, SGLANG):
        decision = decide(engine, f"{LAYER}.3.self_attn.k_proj", module)
        assert decision.problem is not None
        assert "only q_proj is excluded" in decision.problem


def test_substring_takes_layers_10_to_19():
    last = "mlp.down_proj"
    assert excluded(VLLM, f"{LAYER}.10.{last}", f"{LAYER}.1")
    assert excluded(VLLM, f"{LAYER}.19.{last}", "layers.1")
    assert not excluded(VLLM, f"{LAYER}.2.{last}", f"{LAYER}.1")
    # A prefix that is renamed only with its dot keeps the checkpoint's spelling, and matches none.
    assert not excluded(VLLM, f"{LAYER}.1.{last}", "model.language_model")
    assert not excluded(SGLANG, f"{LAYER}.10.{last}", f"{LAYER}.1")


def test_router_pattern_takes_the_dense_mlp():
    module = f"{LAYER}.0.mlp.up_proj"
    assert excluded(VLLM, module, "mlp.gate")
    assert not excluded(SGLANG, module, "mlp.gate")


def test_star_is_rewritten_only_where_the_class_has_a_mapper():
    module, star = "model.layers.10.mlp.down_proj", "model.layers.1*.mlp*"
    plain = {"architecture": "LlamaForCausalLM"}
    assert excluded(OLD, module, star, **plain)
    assert excluded(VLLM, module, star, **plain)
    # `layers.1*` becomes `layers.1` and `layers.1.*`; the first is found as a substring.
    assert not excluded(OLD, module, "layers.1*", **plain)
    assert excluded(VLLM, module, "layers.1*", **plain)


def test_fused_name_counts_from_0_24():
    listed: dict[str, Any] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    listed["modules_to_not_convert"] = [f"{LAYER}.3.self_attn.qkv_proj"]
    module = f"{LAYER}.3.self_attn.q_proj"
    results = {
        version: excluded(parse_engine(f"vllm=={version}")[0], module, **listed)
        for version in ("0.23.0", "0.24.0")
    }
    assert results == {"0.23.0": False, "0.24.0": True}


def test_head():
    assert decide(parse_engine("vllm==0.22.1")[0], "lm_head").algorithm is None
    assert decide(parse_engine("vllm==0.23.0")[0], "lm_head").algorithm == "NVFP4"
    assert decide(VLLM, "lm_head").layer == "language_model.lm_head"
    assert excluded(VLLM, "lm_head", "lm_head")


def test_experts_are_one_layer():
    moe = {"architecture": "Qwen3MoeForCausalLM"}
    module = "model.layers.0.mlp.experts.7.gate_proj"
    assert decide(VLLM, module, **moe).layer == "model.layers.0.mlp.experts"
    assert excluded(VLLM, "model.layers.0.mlp.experts.3.up_proj", module, **moe)
    assert not excluded(VLLM, "model.layers.1.mlp.experts.3.up_proj", module, **moe)


def test_never_quantized():
    for module in (
        "linear_attn.conv1d",
        "input_layernorm",
        "linear_attn.norm",
        "linear_attn.A_log",
    ):
        assert decide(VLLM, f"{LAYER}.0.{module}").algorithm is None
    assert decide(VLLM, "model.language_model.embed_tokens").algorithm is None
    assert decide(SGLANG, "model.visual.blocks.0.attn.qkv").algorithm is None
    assert decide(VLLM, "model.visual.blocks.0.attn.qkv").algorithm == "NVFP4"


NEXT: dict[str, Any] = {"architecture": "Qwen3NextForCausalLM"}


def next_excluded(version: str, module: str, *ignore: str) -> bool:
    [engine] = parse_engine(f"vllm=={version}")
    return excluded(engine, module, *ignore, **NEXT)


def test_qwen3_next_in_vllm():
    module = "model.layers.10.linear_attn.in_proj_qkvz"
    for engine in (OLD, VLLM):
        assert decide(engine, module, **NEXT).layer == module
        assert excluded(engine, module, module, **NEXT)
        for never in (
            "lm_head",
            "model.layers.0.mlp.gate",
            "model.layers.0.mlp.shared_expert_gate",
        ):
            assert "never quantizes" in decide(engine, never, **NEXT).reason
    # `layers.1*` is rewritten, and then found as a substring, once the class has a mapper.
    assert not next_excluded("0.28.0", module, "layers.1*")
    assert next_excluded("0.29.0", module, "layers.1*")
    # The mapper drops weights of the head, not entries of the list.
    assert next_excluded(
        "0.29.0", MTP[1], *(MTP[1].replace("q_p", f"{letter}_p") for letter in "qkv")
    )


def test_qwen3_next_draft_in_vllm():
    assert not next_excluded("0.24.0", "mtp.fc", "mtp.layers.0*")
    assert next_excluded("0.25.1", "mtp.fc", "mtp.layers.0*")
    expert = "mtp.layers.0.mlp.shared_expert"
    gate, up, down = (f"{expert}.{part}_proj" for part in ("gate", "up", "down"))
    [old] = parse_engine("vllm==0.24.0")
    refused = decide(old, gate, gate, up, **NEXT).problem
    assert refused is not None
    assert "only up_proj is excluded" in refused
    assert next_excluded("0.24.0", gate, up, down)
    assert next_excluded("0.25.1", gate, gate, up)


def test_qwen3_next_in_sglang():
    query, output = (f"model.layers.3.self_attn.{part}_proj" for part in "qo")
    assert "whatever the list says" in decide(SGLANG, query, **NEXT).reason
    assert decide(SGLANG, output, **NEXT).algorithm == "NVFP4"
    assert decide(SGLANG, query, **NEXT, quant_algo="FP8").algorithm == "FP8"
    assert decide(SGLANG, "lm_head", **NEXT).algorithm == "NVFP4"
    assert excluded(SGLANG, "model.layers.0.linear_attn.in_proj_ba", "*in_proj_ba", **NEXT)
    # The draft model's layer is called as the target's first one is.
    assert decide(SGLANG, MTP[2], "mtp*", **NEXT).algorithm == "NVFP4"
    assert excluded(SGLANG, MTP[2], "model.layers.0.*", **NEXT)
    assert "never quantizes mtp.fc" in decide(SGLANG, "mtp.fc", **NEXT).reason


def test_mixed_precision():
    layers = {
        f"{LAYER}.0.mlp.gate_proj": {"quant_algo": "FP8"},
        f"{LAYER}.0.mlp.up_proj": {"quant_algo": "fp8"},
        f"{LAYER}.1.mlp.gate_proj": {"quant_algo": "FP8"},
        f"{LAYER}.1.mlp.up_proj": {"quant_algo": "NVFP4"},
    }
    scheme = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    assert decide(VLLM, f"{LAYER}.0.mlp.up_proj", **scheme).algorithm == "FP8"
    assert decide(VLLM, f"{LAYER}.0.mlp.down_proj", **scheme).algorithm is None
    assert decide(VLLM, f"{LAYER}.1.mlp.up_proj", **scheme).problem is not None


def test_where_the_scheme_is_read():
    module = f"{LAYER}.0.mlp.down_proj"
    nested: dict[str, Any] = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": []}
    nested["kv_cache_quant_algo"] = None
    other = {"producer": {"name": "modelopt"}, "quantization": nested}
    bare = {"architectures": [QWEN]}
    for engine in DEFAULT_ENGINES:
        assert decisions(engine, bare, other, [module])[module].algorithm == "NVFP4"
        assert decisions(engine, bare, None, [module])[module].algorithm is None
        # config.json wins, and the other file is not even looked at.
        assert decisions(engine, config(module), other, [module])[module].algorithm is None
    assert decisions(TENSORRT, bare, other, [module]) == {}


@pytest.mark.parametrize("key", ["group_size", "kv_cache_quant_algo", "exclude_modules"])
def test_nested_nvfp4_needs_its_keys(key: str):
    nested: dict[str, Any] = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": []}
    nested["kv_cache_quant_algo"] = "FP8"
    del nested[key]
    other = {"producer": {"name": "modelopt"}, "quantization": nested}
    [problem] = scheme_problems(VLLM, {"architectures": [QWEN]}, other)
    assert problem.refused
    assert key in problem.text


def test_what_is_refused_or_reinterpreted():
    assert problems(VLLM) == []
    assert problems(SGLANG) == []
    assert "without quant_algo" in problems(VLLM, quant_algo=None)[0]
    assert "unquantized" in problems(VLLM, quant_method="")[0]
    groups = {"group_0": {"input_activations": None}}
    assert "W4A16" in problems(VLLM, config_groups=groups)[0]
    assert problems(OLD, config_groups=groups) == []
    assert "refuses the quant_algo" in problems(OLD, quant_algo="W4A16_NVFP4")[0]
    assert is_modelled(VLLM, {"architectures": ["Qwen3_5ForCausalLM"]})
    assert not is_modelled(VLLM, {"architectures": ["MambaLM"]})


def test_sglang_wants_one_group_size():
    nested = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": []}
    other = {"quantization": nested, "config_groups": {"g": {"weights": {"group_size": 32}}}}
    [problem] = scheme_problems(SGLANG, {"architectures": [QWEN]}, other)
    assert "one group_size" in problem.text


def test_sglang_ignores_what_config_json_nests():
    nested = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}
    whole = config() | {"quantization_config": {"quant_method": "modelopt", "quantization": nested}}
    [problem] = scheme_problems(SGLANG, whole, None)
    assert not problem.refused
    assert "quantizes what it names" in problem.text
    assert decisions(SGLANG, whole, None, ["lm_head"])["lm_head"].algorithm == "NVFP4"


def test_tensorrt_excludes_a_group_for_one_part():
    plain = {"architecture": "Qwen3ForCausalLM"}
    module = "model.layers.0.self_attn.k_proj"
    assert excluded(TENSORRT, module, "*q_proj", **plain)
    assert not excluded(TENSORRT, module, "q_proj", **plain)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("name", "g")), inner)
    ),
    max_leaves=6,
)
KEYS = (
    *("quant_method", "quant_algo", "ignore", "exclude_modules", "quantization", "producer"),
    *("config_groups", "quantized_layers", "group_size", "modules_to_not_convert"),
)
METHODS = ("modelopt", "fp8", "compressed-tensors", "modelopt_mixed")
ALGORITHMS = ("NVFP4", "MIXED_PRECISION", "FP8")


@given(
    outer=st.dictionaries(st.sampled_from(KEYS), JSON),
    inner=st.dictionaries(st.sampled_from(KEYS), JSON),
    method=st.sampled_from(METHODS) | JSON,
    algorithm=st.sampled_from(ALGORITHMS) | JSON,
    architectures=st.just([QWEN]) | JSON,
    other=st.none() | st.dictionaries(st.sampled_from(KEYS), JSON),
)
def test_any_json(outer, inner, method, algorithm, architectures, other):
    known = {"quant_method": method, "quant_algo": algorithm}
    for declared in (outer | known, outer | {"quantization": inner | known}, outer):
        whole = {"architectures": architectures, "quantization_config": declared}
        for engine in (OLD, VLLM, SGLANG, TENSORRT):
            scheme_problems(engine, whole, other)
            decisions(engine, whole, other, ["lm_head", "mtp.fc", f"{LAYER}.0.mlp.up_proj"])


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_any_list(name: str):
    """Lists of every kind, for every known release: nothing but decisions."""
    for engine in parse_engine(f"{name}>0"):
        for case in loader_cases.cases("LlamaForCausalLM", lists=5, seed=3, modules=30):
            declared = loader_cases.modelopt(case)
            whole = {"architectures": [case.architecture], "quantization_config": declared}
            assert set(decisions(engine, whole, None, case.modules)) == set(case.modules)


def test_fast():
    """Thirty thousand modules of a mixture of experts beside a list of hundreds."""
    modules = [
        f"model.layers.{layer}.mlp.experts.{expert}.{part}"
        for layer in range(80)
        for expert in range(128)
        for part in ("gate_proj", "up_proj", "down_proj")
    ]
    ignore = [
        f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(80) for part in "qkv"
    ]
    whole = config(*ignore, architecture="Qwen3MoeForCausalLM")
    start = time.perf_counter()
    assert len(decisions(VLLM, whole, None, modules)) == len(modules)
    assert time.perf_counter() - start < 5
