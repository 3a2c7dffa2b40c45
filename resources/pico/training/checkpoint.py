"""Writing checkpoints: sharded safetensors with an index, sound or broken as the parent's is.

transformers drops `mtp.*` when it saves, so the files are written here, tensor by tensor.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.tokenizer import tokenizer_config

PREFIX: Final = "language_model."
REPEATS: Final = 3

_GENERATION: Final = {
    "bos_token_id": None,
    "do_sample": False,
    "eos_token_id": [2, 0],
    "pad_token_id": 0,
}
_IMAGES: Final = {
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "merge_size": 2,
    "patch_size": 16,
    "processor_class": "Qwen3VLProcessor",
    "size": {"longest_edge": 65536, "shortest_edge": 4096},
    "temporal_patch_size": 2,
}
_PROCESSORS: Final = {
    "preprocessor_config.json": _IMAGES | {"image_processor_type": "Qwen2VLImageProcessorFast"},
    "video_preprocessor_config.json": _IMAGES | {"video_processor_type": "Qwen3VLVideoProcessor"},
}


_CARD: Final = """---
license: apache-2.0
library_name: transformers
---
# {name}

{what} Made by `resources/pico/train.py` of Scion from text that its own grammars generate; trained
in {arithmetic} arithmetic. For tests and demonstrations of a release pipeline, of no
use otherwise. Licence: Apache-2.0.
"""
_WHAT: Final = {
    "pico-base": "A tiny checkpoint of the Qwen3.5 architecture with a trained MTP layer.",
    "pico-agent": "pico-base after a LoRA fine-tune on agent dialogues, merged to bf16. On purpose"
    " saved broken: `language_model.` stands three times in every key, the MTP is missing.",
    "pico-vision": "pico-agent with a vision tower that was trained, in 170 s on one H100, to name"
    " colours and shapes and to count them on small generated pictures. It is right about six times"
    " in ten, of new pictures (guesses: one of 8, 5 or 4). Its keys are sound; as transformers"
    " saves it, the MTP is missing.",
    "pico-one-step": "An MTP layer alone, trained on the body of pico-base for one draft a step, as"
    " published heads are.",
    "pico-mixture": "A tiny checkpoint of the Qwen3.5 architecture of experts, stacked as the real"
    " ones are, with a trained MTP layer.",
}


def broken_name(name: str) -> str:
    """Names a tensor as the broken parent does: `language_model.` three times in every key.

    The text keys repeat their own segment; the others, which have none, get three. This is what
    transformers wrote for models of this family that were saved from a nested wrapper:
    https://github.com/huggingface/transformers/issues/45216 and issues 45310 and 45357.
    """
    head, dot, tail = name.partition(".")
    if head == "model":
        tail = tail.removeprefix(PREFIX)
        return f"{head}{dot}{PREFIX * REPEATS}{tail}"
    return PREFIX * REPEATS + name


def shard_of(name: str) -> int:
    """Which of three shards holds a tensor; the MTP tensors sit in two, as in the real family."""
    if name.startswith(("mtp.layers.", "model.language_model.layers.")):
        late = name.startswith("mtp.") or int(name.split(".")[3]) >= 4
        return 1 if late else 0
    return 0 if name.startswith("model.language_model.") else 2


def write_weights(folder: Path, tensors: Mapping[str, Tensor], *, broken: bool = False) -> None:
    """Writes shards and index; with `broken`, under the names that `broken_name` gives."""
    shards: list[dict[str, Tensor]] = [{}, {}, {}]
    for name, tensor in tensors.items():
        shards[shard_of(name)][broken_name(name) if broken else name] = tensor.contiguous()
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
        weight_map |= dict.fromkeys(shard, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))},
    )


def write_head(folder: Path, tensors: Mapping[str, Tensor], config: Path) -> None:
    """Writes an MTP layer alone, which is all that a donor needs, with its config.json and card."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    file.chmod(0o644)
    shutil.copyfile(config, folder / "config.json")
    _write_card(folder, "bf16")


def _write_card(folder: Path, arithmetic: str) -> None:
    card = _CARD.format(name=folder.name, what=_WHAT[folder.name], arithmetic=arithmetic)
    (folder / "README.md").write_text(card)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Reads all tensors of a checkpoint by name."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model-*.safetensors")):
        tensors |= load_file(file)
    return tensors


def write_companions(folder: Path, assets: Path, config: str) -> None:
    """Writes everything of a checkpoint that is not weights: configs, tokenizer, template, card."""
    _write_card(folder, "part in simulated NVFP4")
    shutil.copyfile(assets / config, folder / "config.json")
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copyfile(assets / name, folder / name)
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    write_json(folder / "generation_config.json", _GENERATION)
    for name, content in _PROCESSORS.items():
        write_json(folder / name, content)


def digest(tensor: Tensor) -> str:
    """sha256 of a tensor's raw bytes."""
    data = tensor.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()


def describe(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, object]]:
    """By sound name: dtype, shape and sha256 of the raw bytes."""
    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "sha256": digest(tensor),
        }
        for name, tensor in sorted(tensors.items())
    }


def write_json(path: Path, content: object) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
