"""Seeded exclusion lists and modules, on which engine models and engines are compared."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

NESTED = "model.language_model."
_FUSED_DELTA_NET = ("in_proj_qkvz", "in_proj_ba", "out_proj")
_DELTA_NET = ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_LAYERS = (0, 1, 2, 3, 10, 11, 19, 31)
_FRAGMENTS = (
    *("self_attn", "linear_attn", "mlp", "mlp.gate", "q_proj", "self_attn.q_proj", "in_proj_a"),
    *("linear_attn.in_proj_a", "linear_attn.in_proj_b", "in_proj", "visual", "mtp", "mtp.fc"),
    *("lm_head", "experts", "layers.1", "layers.1.", "gate_up_proj", "qkv_proj", "in_proj_ba"),
    *("language_model", "proj", "o_proj", "shared_expert", "mtp.layers.0", "attn.qkv", "0"),
)
_JUNK = (None, "", 7, 1.5, True, "text", {}, {"a": 1}, [])
_GROUPS = (
    *({"g": {"input_activations": {"num_bits": 4}}}, {"g": {"input_activations": None}}, {}),
    *({"g": {}, "h": {"input_activations": {}}}, {"g": {}, "h": {}}, {"g": 1}, [], "g", None),
)
_ODD = (
    *("l", "o", ".", "*", "?", "[", "]", "*.", "**", "a*", "mtp*", "*mtp*", "re:", "re:^mtp.*"),
    *("re:.*mlp.*", "re:.*[qkv]_proj$", "re:mtp", "layers.[0-3].*", "*layers.?.mlp*", "*proj[!s]"),
    *("*.q_pro?", "层.0", "modèle*", "*_é_*", "model.", "language_model.*", "lm_head.", "LM_HEAD"),
    *("*self_attn*", "*in_proj_?", "re:.*layers\\.(0|1)\\..*", "MODEL.*", "mtp.*", "model*"),
)


@dataclass(frozen=True)
class Case:
    """One exclusion list beside the modules that it is asked about.

    Attributes:
        architecture: The model class that config.json names.
        entries: The exclusion list.
        modules: Names of a checkpoint's modules.
    """

    architecture: str
    entries: list[str]
    modules: list[str]


def modules_of(architecture: str) -> list[str]:
    """Linear modules of a small checkpoint, named as such checkpoints name them."""
    if architecture == "Qwen3NextForCausalLM":
        above, parts = "model.", _FUSED_DELTA_NET
        names = [name for layer in _LAYERS for name in _hybrid_layer(above, layer, parts, moe=True)]
        return [*names, *_mtp(moe=True), "lm_head"]
    if not architecture.startswith("Qwen3_5"):
        moe = "Moe" in architecture
        return [name for layer in _LAYERS for name in _plain_layer(layer, moe=moe)] + ["lm_head"]
    moe, text = "Moe" in architecture, "CausalLM" in architecture
    names = [
        name for layer in _LAYERS for name in _hybrid_layer(NESTED, layer, _DELTA_NET, moe=moe)
    ]
    names += [*_mtp(moe=moe), "lm_head"]
    blocks = (f"model.visual.blocks.{block}" for block in (0, 1, 12))
    parts = ("attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
    vision = [f"{block}.{part}" for block in blocks for part in parts]
    return names if text else [*names, *vision, "model.visual.merger.linear_fc1"]


def cases(architecture: str, *, lists: int, seed: int, modules: int) -> Iterator[Case]:
    """Lists of every kind, each beside a sample of the architecture's modules."""
    random_ = random.Random(f"{architecture} {seed}")
    every = modules_of(architecture)
    for _ in range(lists):
        kinds = random_.sample(_KINDS, k=random_.choice((1, 1, 1, 2, 3)))
        entries = [entry for kind in kinds for entry in kind(random_, every)]
        random_.shuffle(entries)
        modules_asked = random_.sample(every, k=min(modules, len(every)))
        yield Case(architecture, entries, modules_asked)


def modelopt(case: Case, random_: random.Random | None = None) -> dict[str, Any]:
    """A declaration of NVFP4 that excludes the case's entries."""
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": case.entries}


def fp8(case: Case, random_: random.Random) -> dict[str, Any]:
    """A declaration of FP8 that excludes the case's entries, under either key."""
    key = random_.choice(("ignored_layers", "modules_to_not_convert"))
    return {"quant_method": "fp8", "activation_scheme": "dynamic", key: case.entries}


def mixed(case: Case, random_: random.Random) -> dict[str, Any]:
    """A mixed-precision declaration: whole mixers and MLPs of one algorithm, then a few strays."""
    every = modules_of(case.architecture)
    layers: dict[str, Any] = {}
    for name in _whole_groups(random_, every) + _whole_groups(random_, every):
        algorithm = "NVFP4" if len(name.rpartition(".")[0]) % 2 else "FP8"
        layers[name] = {"quant_algo": algorithm}
    for name in [*_single_names(random_, every)[:3], *_fused_names(random_, every)[:3]]:
        layers[name] = {"quant_algo": random_.choice(("fp8", "W4A16_NVFP4", "MXFP8", "INT8"))}
    excluded = case.entries if random_.random() < 0.3 else []
    return {
        **{"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"},
        **{"ignore": excluded, "quantized_layers": layers, "kv_cache_scheme": None},
    }


def compressed(case: Case, random_: random.Random) -> dict[str, Any]:
    """A compressed-tensors declaration of one to three groups that ignores the case's entries."""
    every = modules_of(case.architecture)
    four = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    eight = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    targets = [["Linear"]] if random_.random() < 0.8 else []
    targets += [["re:.*mlp.*"], _whole_groups(random_, every), _single_names(random_, every)]
    groups: dict[str, Any] = {}
    for number in range(random_.randint(1, 3)):
        weights, inputs = random_.choice(((four, four), (four, None), (eight, eight)))
        chosen = targets.pop(0 if number == 0 else random_.randrange(len(targets)))
        group = {"targets": chosen, "weights": weights, "input_activations": inputs}
        groups[f"group_{number}"] = group
    return {
        **{"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        **{"config_groups": groups, "ignore": case.entries},
    }


def declarations(count: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """Whole declarations, flat and nested, most with something missing, odd or of another type."""
    random_ = random.Random(seed)
    for _ in range(count):
        keys: dict[str, tuple[Any, ...]] = {
            "quant_algo": ("NVFP4", "nvfp4", "FP8", "FP8_PB_WO", "W4A16_NVFP4", "MXFP8", *_JUNK),
            "group_size": (16, 16, "16", 16.5, *_JUNK),
            "exclude_modules": ([], ["lm_head"], ["a*", "b"], [1], *_JUNK),
        }
        flat: dict[str, tuple[Any, ...]] = {
            "ignore": ([], ["lm_head"], ["mtp*"], [None], *_JUNK),
            "config_groups": _GROUPS,
            "kv_cache_scheme": ({"type": "float", "num_bits": 8}, *_JUNK),
        }
        quantized = {"a.b": {"quant_algo": "NVFP4"}}
        mixed_layers = (quantized, {"a": {"quant_algo": None}}, {"a": 1}, {}, *_JUNK)
        if random_.random() < 0.15:
            keys |= {"quant_algo": ("MIXED_PRECISION",), "quantized_layers": mixed_layers}
        outer = {"quant_method": ("modelopt",) * 8 + ("MODELOPT", "modelopt_fp4", "fp8", "", 4)}
        outer |= {"producer": ({"name": "modelopt"}, {"name": "modelopt"}, {}, {"name": "else"})}
        if random_.random() < 0.5:
            yield _drawn(random_, outer | keys | flat)
        else:
            keys["kv_cache_quant_algo"] = ("FP8", None, 8)
            nested = random_.choice((True,) * 9 + (False,))
            inner = _drawn(random_, keys)
            yield {**_drawn(random_, outer), "quantization": inner if nested else "NVFP4"}


def _drawn(random_: random.Random, keys: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """A value for most of the keys, the usual one more often than not."""
    return {
        key: values[0] if random_.random() < 0.6 else random_.choice(values)
        for key, values in keys.items()
        if random_.random() < 0.85
    }


def _mtp(*, moe: bool) -> list[str]:
    attention = [f"mtp.layers.0.self_attn.{part}" for part in _ATTENTION]
    return [*attention, "mtp.fc", *_mlp("mtp.layers.0.mlp", moe=moe)]


def _hybrid_layer(
    prefix: str, layer: int, delta_net: tuple[str, ...], *, moe: bool
) -> Iterator[str]:
    above = f"{prefix}layers.{layer}"
    if layer % 4 == 3:
        yield from (f"{above}.self_attn.{part}" for part in _ATTENTION)
    else:
        yield from (f"{above}.linear_attn.{part}" for part in delta_net)
    yield from _mlp(f"{above}.mlp", moe=moe)


def _plain_layer(layer: int, *, moe: bool) -> Iterator[str]:
    yield from (f"model.layers.{layer}.self_attn.{part}" for part in _ATTENTION)
    yield from _mlp(f"model.layers.{layer}.mlp", moe=moe)


def _mlp(above: str, *, moe: bool) -> list[str]:
    if not moe:
        return [f"{above}.{part}" for part in _MLP]
    experts = [f"{above}.experts.{expert}.{part}" for expert in (0, 7) for part in _MLP]
    return [*experts, *(f"{above}.shared_expert.{part}" for part in _MLP)]


def _whole_groups(random_: random.Random, every: list[str]) -> list[str]:
    """All modules of some layers' mixers or MLPs, so that fused groups are whole."""
    above = sorted({name.rpartition(".")[0] for name in every})
    chosen = set(random_.sample(above, k=random_.randint(1, len(above) // 2)))
    return [name for name in every if name.rpartition(".")[0] in chosen]


def _single_names(random_: random.Random, every: list[str]) -> list[str]:
    """Modules one by one, so that fused groups are partly listed."""
    return random_.sample(every, k=random_.randint(1, len(every) // 3))


def _fused_names(random_: random.Random, every: list[str]) -> list[str]:
    """Names of fused layers and of the engine's own spelling."""
    fused = {"q_proj": "qkv_proj", "gate_proj": "gate_up_proj", "in_proj_a": "in_proj_ba"}
    fused |= {"in_proj_z": "in_proj_qkvz"}
    names: list[str] = []
    for name in random_.sample(every, k=len(every) // 4):
        above, _, last = name.rpartition(".")
        name = f"{above}.{fused.get(last, last)}"
        inside = name.replace(NESTED, "language_model.model.").replace("model.visual.", "visual.")
        names.append(random_.choice((name, inside, name.replace(NESTED, ""))))
    return names


def _trees(random_: random.Random, every: list[str]) -> list[str]:
    """`X*` and `X.*` for some prefix of a name, cut at a dot or anywhere."""
    entries: list[str] = []
    for name in random_.sample(every, k=random_.randint(1, 4)):
        parts = name.split(".")
        at_dot = ".".join(parts[: random_.randint(1, len(parts))])
        anywhere = name[: random_.randint(1, len(name))]
        entries.append(
            random_.choice((at_dot, at_dot, anywhere)) + random_.choice(("*", "*", ".*"))
        )
    return entries


def _fragments(random_: random.Random, every: list[str]) -> list[str]:
    """Parts of names, bare or between stars."""
    entries: list[str] = []
    for fragment in random_.sample(_FRAGMENTS, k=random_.randint(1, 3)):
        shape = random_.choice(("{}", "*{}*", "*{}", "{}*", "*.{}", "re:.*{}.*", "re:^{}"))
        entries.append(shape.format(fragment))
    return entries


def _odd(random_: random.Random, every: list[str]) -> list[str]:
    """What nobody should write: stray brackets, single letters, other scripts, the empty entry."""
    entries = random_.sample(_ODD, k=random_.randint(1, 2))
    return [*entries, ""] if random_.random() < 0.05 else entries


def _nothing(random_: random.Random, every: list[str]) -> list[str]:
    return []


_KINDS: tuple[Callable[[random.Random, list[str]], list[str]], ...] = (
    *(_whole_groups, _single_names, _fused_names, _trees, _fragments, _odd, _nothing),
)
