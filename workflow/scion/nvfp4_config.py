"""How a release declares NVFP4, so that every engine reads the same.

Engines read the scheme from `quantization_config` in config.json, and from hf_quant_config.json
only where that is absent; both are written here from one list, so they can't drift apart. Needs no
torch: the numbers themselves are `scion.nvfp4`'s.
"""

from collections.abc import Iterable, Mapping
from typing import Any

BLOCK = 16
SUFFIXES = ("weight", "weight_scale", "weight_scale_2", "input_scale")
HF_QUANT_CONFIG = "hf_quant_config.json"
MTP_PATTERN = "mtp*"
KEPT_PARENTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "linear_attention": ("linear_attn",),
    "attention": ("linear_attn", "self_attn"),
}
"""Modules that stay bf16, by the value of `quantization.keep_bf16`: the end of a parent's name."""


def declared_exclusions(kept: Iterable[str], *, head: bool, vision: bool) -> list[str]:
    """The exclusion list of a release, in a form that vLLM and SGLang match alike.

    vLLM tries an exact name with its fused layers expanded, then a substring, then `fnmatch`, so
    each module is named in full: `*in_proj_a*` beside `*in_proj_b*` would miss the fused
    `in_proj_ba`, and `layers.1` would also take layers 10 to 19. `mtp*` covers `mtp.fc`, which
    `mtp.layers.0*` misses (https://github.com/vllm-project/vllm/issues/38650); it is listed whether
    there is a head yet or not.

    Args:
        kept: Full names of the decoder layers' modules that stay unquantized.
        head: Whether there is an `lm_head` (not tied to the embeddings).
        vision: Whether the vision tower is part of the release.
    """
    names = ["lm_head"] if head else []
    names += ["model.language_model.embed_tokens", *kept]
    return names + (["model.visual*"] if vision else []) + [MTP_PATTERN]


def quantization_config(exclude: list[str], *, producer: Mapping[str, str]) -> dict[str, Any]:
    """The `quantization_config` of config.json.

    Args:
        exclude: The list that `declared_exclusions` gives.
        producer: `name` and `version` of the quantizer.
    """
    four_bits = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": BLOCK}
    return {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "group_size": BLOCK,
        "config_groups": {
            "group_0": {
                "input_activations": four_bits,
                "weights": four_bits,
                "targets": ["Linear"],
            }
        },
        "ignore": exclude,
        "producer": dict(producer),
    }


def hf_quant_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of hf_quant_config.json that says the same as a `quantization_config`."""
    return {
        "producer": config["producer"],
        "quantization": {
            "quant_algo": config["quant_algo"],
            "kv_cache_quant_algo": None,
            "group_size": config["group_size"],
            "exclude_modules": config["ignore"],
        },
    }
