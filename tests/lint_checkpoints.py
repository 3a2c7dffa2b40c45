"""Sound checkpoints of a few kilobytes in every format that lint knows, to be broken by tests.

folder = sound(tmp_path / "model", spelling="modelopt")
drop_tensors(folder, lambda name: name.startswith("mtp."))
"""

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from checkpoints import TEXT, VISION, header_bytes
from scion.architectures.families import FAMILIES
from scion.architectures.inventory import implied
from scion.checkpoint.safetensors_file import DTYPE_BITS
from scion.checkpoint.shards import INDEX, shard_name
from scion.formats.modelopt import (
    BLOCK,
    HF_QUANT_CONFIG,
    declared_exclusions,
    hf_quant_config,
    quantization_config,
)

PICO = Path(__file__).parent.parent / "resources/pico/pico-base"
TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
PROCESSOR = "preprocessor_config.json"
PRODUCER = {"name": "modelopt", "version": "0.47.0"}
Spelling = Literal["bf16", "modelopt", "compressed-tensors", "fp8", "mixed"]


@dataclass
class Stored:
    """A tensor to be written: dtype as safetensors names it, shape, raw bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)


def qwen35(**text: Any) -> dict[str, Any]:
    """config.json of a tiny dense Qwen3.5 with vision tower and MTP head."""
    return {
        "model_type": "qwen3_5",
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "text_config": {"model_type": "qwen3_5_text", **TEXT, "vocab_size": 1024, **text},
        "vision_config": VISION,
    }


def llama(**changes: Any) -> dict[str, Any]:
    """config.json of a tiny plain decoder."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 1024,
        "tie_word_embeddings": False,
        **changes,
    }


def sound(
    folder: Path,
    *,
    spelling: Spelling = "bf16",
    config: Mapping[str, Any] | None = None,
    shards: int = 2,
) -> Path:
    """Write a checkpoint on which no rule has anything of severity error to say.

    Args:
        folder: To be made.
        spelling: The number format: `mixed` is FP8 attention beside NVFP4 everything else.
        config: config.json without `quantization_config`; by default the tiny Qwen3.5.
        shards: Number of files; 1 writes model.safetensors without an index.
    """
    config = dict(config or qwen35())
    expected = implied(config, where=folder)
    assert expected is not None
    shapes = {**expected.language, **expected.vision, **expected.mtp}
    tensors = {name: plain(name, shape) for name, shape in shapes.items()}
    config |= _quantize(tensors, expected.quantized, expected.kept, spelling, config)
    folder.mkdir(parents=True)
    write_tensors(folder, tensors, shards=shards)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if spelling in ("modelopt", "mixed"):
        scheme = config["quantization_config"]
        declared = hf_quant_config(scheme)
        if spelling == "mixed":
            declared["quantization"]["quantized_layers"] = scheme["quantized_layers"]
        (folder / HF_QUANT_CONFIG).write_text(json.dumps(declared, indent=2))
    write_tokenizer(folder)
    if "vision_config" in config:
        shutil.copy(PICO / PROCESSOR, folder / PROCESSOR)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write pico's tokenizer, with a chat template that takes every role at every place."""
    for name in TOKENIZER_FILES:
        shutil.copy(PICO / name, folder / name)
    refusal = re.compile(r"message\.role == 'system' and not loop\.first -%}\s+{{-.*?-}}")
    anywhere = (
        "message.role == 'developer' or not loop.first -%}"
        "{{- '<|im_start|>system\\n' ~ content ~ '<|im_end|>\\n' -}}"
    )
    text, count = refusal.subn(lambda _: anywhere, (PICO / TEMPLATE).read_text())
    assert count == 1
    (folder / TEMPLATE).write_text(text)


def plain(name: str, shape: tuple[int, ...]) -> Stored:
    """A bf16 tensor of small random numbers that follow from its name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.02, shape)
    bits = values.astype(np.float32).view(np.uint32) >> 16
    return Stored("BF16", shape, bits.astype("<u2").tobytes())


def nvfp4(module: str, shape: tuple[int, int], *, compressed: bool = False) -> dict[str, Stored]:
    """The four tensors of an NVFP4 linear layer, in ModelOpt's or compressed-tensors' spelling."""
    rows, columns = shape
    rng = np.random.default_rng(zlib.crc32(module.encode()))
    codes = Stored("U8", (rows, columns // 2), rng.bytes(rows * columns // 2))
    blocks = Stored("F8_E4M3", (rows, columns // BLOCK), b"\x38" * (rows * (columns // BLOCK)))
    if not compressed:
        return {
            f"{module}.weight": codes,
            f"{module}.weight_scale": blocks,
            f"{module}.weight_scale_2": scalar(0.001),
            f"{module}.input_scale": scalar(0.01),
        }
    return {
        f"{module}.weight_packed": codes,
        f"{module}.weight_scale": blocks,
        f"{module}.weight_global_scale": scalar(1000.0, shape=(1,)),
        f"{module}.input_global_scale": scalar(100.0, shape=(1,)),
    }


def fp8(module: str, shape: tuple[int, int]) -> dict[str, Stored]:
    """The three tensors of ModelOpt's FP8 linear layer."""
    return {
        f"{module}.weight": Stored("F8_E4M3", shape, b"\x30" * (shape[0] * shape[1])),
        f"{module}.weight_scale": scalar(0.001),
        f"{module}.input_scale": scalar(0.01),
    }


def scalar(value: float, *, shape: tuple[int, ...] = ()) -> Stored:
    """A float32 of one element."""
    return Stored("F32", shape, np.float32(value).tobytes())


def write_tensors(folder: Path, tensors: Mapping[str, Stored], *, shards: int) -> None:
    """Write tensors dealt out to numbered shards and their index, or to model.safetensors."""
    names = list(tensors)
    if shards == 1:
        write_shard(folder / "model.safetensors", tensors)
        return
    weight_map: dict[str, str] = {}
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        write_shard(folder / shard_name(number + 1, shards), part)
        weight_map |= dict.fromkeys(part, shard_name(number + 1, shards))
    size = sum(len(tensor.data) for tensor in tensors.values())
    content = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(content))


def write_shard(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write one safetensors file, tensors end to end."""
    entries, position = dict[str, Any](), 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        assert len(tensor.data) * 8 == np.prod(tensor.shape, dtype=int) * DTYPE_BITS[tensor.dtype]
        offsets = [position, end]
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
        position = end
    data = b"".join(tensor.data for tensor in tensors.values())
    path.write_bytes(header_bytes(entries) + data)


def read_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder."""
    tensors: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8 : 8 + length]).items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                tensors[name] = Stored(entry["dtype"], tuple(entry["shape"]), raw[begin:end])
    return tensors


def edit_tensors(folder: Path, change: Callable[[dict[str, Stored]], object]) -> None:
    """Write a checkpoint's tensors anew after `change` has altered the mapping in place."""
    tensors = read_tensors(folder)
    count = len(list(folder.glob("*.safetensors")))
    change(tensors)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    write_tensors(folder, tensors, shards=count)


def rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    """Give each tensor the name that `rename` makes of its own."""

    def change(tensors: dict[str, Stored]) -> None:
        renamed = {rename(name): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(folder, change)


def drop_tensors(folder: Path, drop: Callable[[str], bool]) -> None:
    """Remove the tensors whose name `drop` accepts, from shards and index."""

    def change(tensors: dict[str, Stored]) -> None:
        for name in [name for name in tensors if drop(name)]:
            del tensors[name]

    edit_tensors(folder, change)


def _quantize(
    tensors: dict[str, Stored],
    quantized: Iterable[str],
    kept: Iterable[str],
    spelling: Spelling,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Replace the weights of `quantized`; what config.json gains by that."""
    if spelling == "bf16":
        return {}
    layers: dict[str, dict[str, Any]] = {}
    for module in quantized:
        rows, columns = tensors.pop(f"{module}.weight").shape
        in_fp8 = spelling == "fp8" or (spelling == "mixed" and ".self_attn." in module)
        layers[module] = {"quant_algo": "FP8"} if in_fp8 else NVFP4_LAYER
        tensors |= (
            fp8(module, (rows, columns))
            if in_fp8
            else nvfp4(module, (rows, columns), compressed=spelling == "compressed-tensors")
        )
    family = FAMILIES[config["model_type"]]
    tower = [family.vision_pattern] if "vision_config" in config else []
    exclude = [*declared_exclusions(family, kept), *tower]
    if spelling == "compressed-tensors":
        return {"quantization_config": compressed_scheme(exclude)}
    scheme = quantization_config(exclude, producer=PRODUCER)
    if spelling == "fp8":
        scheme |= {"quant_algo": "FP8", "config_groups": {}}
        del scheme["group_size"]
    if spelling == "mixed":
        scheme |= {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
        del scheme["config_groups"]
    return {"quantization_config": scheme}


NVFP4_LAYER = {"quant_algo": "NVFP4", "group_size": BLOCK}


def compressed_scheme(exclude: Iterable[str]) -> dict[str, Any]:
    """What llm-compressor declares for `nvfp4-pack-quantized`."""
    numbers = {"num_bits": 4, "type": "float", "symmetric": True, "group_size": BLOCK}
    # A pattern is matched against vLLM's names, where the tower is `visual.`.
    ignore = [
        f"re:.*{name.removesuffix('*').rpartition('.')[2]}.*" if name.endswith("*") else name
        for name in exclude
    ]
    return {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**numbers, "strategy": "tensor_group", "dynamic": False},
                "input_activations": {**numbers, "strategy": "tensor_group", "dynamic": "local"},
                "format": "nvfp4-pack-quantized",
            }
        },
        "ignore": ignore,
    }
