"""Checkpoints in the layouts that are really published, with dimensions of a few dozen.

Each mirrors a repository on the hub: its config.json and hf_quant_config.json but for the sizes,
the names, dtypes and ranks of its tensors. `tests/unit/test_lint_published.py` lints them all.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lint_checkpoints import (
    PICO,
    PROCESSOR,
    Stored,
    nvfp4,
    plain,
    scalar,
    write_tensors,
    write_tokenizer,
)
from scion.architectures.inventory import implied
from scion.checkpoint.safetensors_file import DTYPE_BITS
from scion.formats.modelopt import HF_QUANT_CONFIG

CONFIGS = (
    "https://github.com/ai-dynamo/aiconfigurator/tree/main/aic-core/src/aiconfigurator_core/"
    "model_configs"
)
"""Copies of published config.json and hf_quant_config.json."""
FP8_BLOCK = 16
"""In proportion to the other dimensions: blocks are 128 wide where layers have thousands."""


@dataclass
class Layout:
    """A published layout.

    Attributes:
        mirrors: The repository.
        source: Where what is mirrored can be read.
        config: Its config.json.
        hf_quant_config: Its hf_quant_config.json, if it has one.
        tensors: By name; at first what config.json implies, in bf16.
        expected: The rules that find something, and should, for the newest engines.
        sound_in: The vLLM releases for which nothing else of severity error is found.
    """

    mirrors: str
    source: str
    config: dict[str, Any]
    hf_quant_config: dict[str, Any] | None = None
    expected: frozenset[str] = frozenset()
    sound_in: str = "vllm>=0.20"
    tensors: dict[str, Stored] = field(init=False)

    def __post_init__(self) -> None:
        expected = implied(self.config, where=self.mirrors)
        assert expected is not None
        self.tensors = {name: plain(name, shape) for name, shape in expected.tensors.items()}

    def quantize(self, pattern: str, make: Callable[..., dict[str, Stored]]) -> "Layout":
        """Replace the weight of each linear module that a pattern matches from its start."""
        for module in self.modules(pattern):
            shape = self.tensors.pop(f"{module}.weight").shape
            self.tensors |= make(module, shape)
        return self

    def stack_experts(self, pattern: str = "") -> "Layout":
        """Replace the experts of each layer by two tensors that hold them all."""
        blocks: dict[str, list[str]] = {}
        for name in self.tensors:
            block, marker, _ = name.partition(".experts.")
            if marker and re.match(pattern, name):
                blocks.setdefault(f"{block}.experts", []).append(name)
        for block, names in blocks.items():
            shapes = [self.tensors.pop(name).shape for name in names]
            hidden, inner = shapes[names.index(f"{block}.0.down_proj.weight")]
            experts = len(names) // 3
            for part, shape in (
                ("gate_up_proj", (2 * inner, hidden)),
                ("down_proj", (hidden, inner)),
            ):
                self.tensors[f"{block}.{part}"] = plain(f"{block}.{part}", (experts, *shape))
        return self

    def add(self, tensors: Mapping[str, Stored]) -> "Layout":
        """Add tensors that config.json does not imply."""
        self.tensors |= tensors
        return self

    def write(self, folder: Path) -> Path:
        """Write it, with a tokenizer."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2))
        if self.hf_quant_config is not None:
            (folder / HF_QUANT_CONFIG).write_text(json.dumps(self.hf_quant_config, indent=2))
        write_tensors(folder, self.tensors, shards=2)
        write_tokenizer(folder)
        if "vision_config" in self.config:
            shutil.copy(PICO / PROCESSOR, folder / PROCESSOR)
        return folder

    def modules(self, pattern: str) -> list[str]:
        """The matrices that a pattern matches from their start."""
        return [
            name.removesuffix(".weight")
            for name, tensor in self.tensors.items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and re.match(pattern, name)
        ]


def filled(dtype: str, *shape: int, byte: bytes = b"\x30") -> Stored:
    """A tensor that is the same byte over and over."""
    return Stored(dtype, shape, byte * (math.prod(shape) * DTYPE_BITS[dtype] // 8))


def fp8_block(
    module: str, shape: tuple[int, int], *, suffix: str = "weight_scale_inv"
) -> dict[str, Stored]:
    """DeepSeek's and Qwen's FP8: a scale for each block, theirs of 128 x 128 numbers."""
    blocks = (math.ceil(shape[0] / FP8_BLOCK), math.ceil(shape[1] / FP8_BLOCK))
    return {
        f"{module}.weight": filled("F8_E4M3", *shape),
        f"{module}.{suffix}": plain(f"{module}.{suffix}", blocks),
    }


def fp8_channel(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    """llm-compressor's FP8-dynamic: a bf16 scale for each row, and none for inputs."""
    return {
        f"{module}.weight": filled("F8_E4M3", *shape),
        f"{module}.weight_scale": plain(f"{module}.weight_scale", (shape[0], 1)),
    }


def w4a16(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    """ModelOpt's NVFP4 of weights alone."""
    tensors = nvfp4(module, shape)
    del tensors[f"{module}.input_scale"]
    return tensors


def packed(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    """llm-compressor's NVFP4."""
    return nvfp4(module, shape, compressed=True)


def packed_a16(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    """llm-compressor's NVFP4A16: no scales of inputs."""
    tensors = packed(module, shape)
    del tensors[f"{module}.input_global_scale"]
    return tensors


def cache_scales(layout: Layout) -> dict[str, Stored]:
    """The cache's scales as ModelOpt places them."""
    keys = layout.modules(r"model\..*self_attn\.k_proj\.")
    above = [key.rpartition(".")[0] for key in keys]
    names = [f"{attention}.{part}_proj.{part}_scale" for attention in above for part in "kv"]
    return {name: scalar(0.02) for name in names}


def qwen35_text(*, layers: int = 4, moe: bool = False) -> dict[str, Any]:
    """text_config of Qwen3.5/3.6: three delta nets to one attention."""
    text: dict[str, Any] = {
        "attention_bias": False,
        "attn_output_gate": True,
        "dtype": "bfloat16",
        "eos_token_id": 0,
        "full_attention_interval": 4,
        "head_dim": 16,
        "hidden_size": 64,
        "layer_types": [
            "linear_attention" if (layer + 1) % 4 else "full_attention" for layer in range(layers)
        ],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 16,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 2048,
        "mlp_only_layers": [],
        "model_type": "qwen3_5_moe_text" if moe else "qwen3_5_text",
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "rms_norm_eps": 1e-6,
        "use_cache": True,
        "vocab_size": 1024,
    }
    sizes = {
        "moe_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "shared_expert_intermediate_size": 64,
    }
    return text | (sizes if moe else {"intermediate_size": 128})


def qwen35(
    *, layers: int = 4, moe: bool = False, scheme: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """config.json of Qwen3.5/3.6 with vision tower and MTP head."""
    config: dict[str, Any] = {
        "architectures": [f"Qwen3_5{'Moe' if moe else ''}ForConditionalGeneration"],
        "dtype": "bfloat16",
        "image_token_id": 4,
        "model_type": "qwen3_5_moe" if moe else "qwen3_5",
        "text_config": qwen35_text(layers=layers, moe=moe),
        "tie_word_embeddings": False,
        "video_token_id": 5,
        "vision_config": {
            "deepstack_visual_indexes": [],
            "depth": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "in_channels": 3,
            "intermediate_size": 64,
            "model_type": "qwen3_5_moe" if moe else "qwen3_5",
            "num_heads": 2,
            "num_position_embeddings": 16,
            "out_hidden_size": 64,
            "patch_size": 2,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "vision_end_token_id": 6,
        "vision_start_token_id": 7,
    }
    return config if scheme is None else {**config, "quantization_config": dict(scheme)}


def decoder(
    model_type: str = "llama", *, scheme: Mapping[str, Any] | None = None, **keys: Any
) -> dict[str, Any]:
    """config.json of a plain decoder."""
    classes = {
        "llama": "LlamaForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
        "qwen3_next": "Qwen3NextForCausalLM",
    }
    config: dict[str, Any] = {
        "architectures": [classes[model_type]],
        "eos_token_id": 0,
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 2048,
        "model_type": model_type,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 1024,
        **({} if model_type in ("llama", "qwen2") else {"attention_bias": False, "head_dim": 16}),
        **keys,
    }
    return config if scheme is None else {**config, "quantization_config": dict(scheme)}


QWEN3_MOE: dict[str, Any] = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
QWEN3_NEXT: dict[str, Any] = {
    **QWEN3_MOE,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "num_hidden_layers": 4,
    "shared_expert_intermediate_size": 64,
}
MODELOPT = {"name": "modelopt", "version": "0.45.0"}
FP8_GROUP = {"dynamic": False, "num_bits": 8, "type": "float"}
NVFP4_GROUP = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
NVFP4_LAYER = {"quant_algo": "NVFP4", "group_size": 16}
W4A16_LAYER = {"quant_algo": "W4A16_NVFP4", "group_size": 16}


def hf_quant(algorithm: str, exclude: Iterable[str], **keys: Any) -> dict[str, Any]:
    """hf_quant_config.json as ModelOpt writes it."""
    return {
        "producer": MODELOPT,
        "quantization": {
            "quant_algo": algorithm,
            "kv_cache_quant_algo": "FP8",
            **({} if algorithm in ("FP8", "MIXED_PRECISION") else {"group_size": 16}),
            **keys,
            "exclude_modules": list(exclude),
        },
    }


def modelopt_scheme(algorithm: str, ignore: Iterable[str], **keys: Any) -> dict[str, Any]:
    """What ModelOpt makes of that for config.json: the group size is in the group alone.

    https://github.com/NVIDIA/Model-Optimizer/blob/main/modelopt/torch/export/convert_hf_config.py
    """
    group = FP8_GROUP if algorithm == "FP8" else NVFP4_GROUP
    groups = {"group_0": {"input_activations": group, "weights": group, "targets": ["Linear"]}}
    return {
        "config_groups": groups,
        "ignore": list(ignore),
        "quant_algo": algorithm,
        "kv_cache_scheme": FP8_GROUP,
        "producer": MODELOPT,
        "quant_method": "modelopt",
        **keys,
    }


def block_fp8_scheme(exclude: Iterable[str] = ()) -> dict[str, Any]:
    """What Qwen declares for its own FP8 releases."""
    names = list(exclude)
    return {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        **({"modules_to_not_convert": names} if names else {}),
    }


def compressed_group(format_: str, targets: Iterable[str], **keys: Any) -> dict[str, Any]:
    """A group of compressed-tensors, as llm-compressor spells it out."""
    common = {"actorder": None, "block_structure": None, "observer_kwargs": {}, "symmetric": True}
    if format_ == "float-quantized":
        weights = {"num_bits": 8, "strategy": "channel", "dynamic": False}
        inputs = {"num_bits": 8, "strategy": "token", "dynamic": True}
    else:
        weights = {"num_bits": 4, "strategy": "tensor_group", "group_size": 16, "dynamic": False}
        inputs = {**weights, "dynamic": "local"}
    return {
        "format": format_,
        "input_activations": {**common, "type": "float", **inputs},
        "output_activations": None,
        "targets": list(targets),
        "weights": {**common, "type": "float", **weights},
        **keys,
    }


def compressed(
    groups: Iterable[Mapping[str, Any]], ignore: Iterable[str], **keys: Any
) -> dict[str, Any]:
    """What llm-compressor declares."""
    named = {f"group_{number}": dict(group) for number, group in enumerate(groups)}
    formats = {group["format"] for group in named.values()}
    return {
        "config_groups": named,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.14.1",
        **keys,
    }
