"""Generate a checkpoint of the size of a 27B release whose headers are real and whose data is not.

What reads headers can't tell it from the original: 15 shards, the tensors of Qwen3.5 27B in their
dtypes and shapes and in the order of safetensors' own writer, an index, a tokenizer.json of
248 000 tokens. The data are holes, but for the float32 scales, so 55 GB take 40 MB of disk.

    python bench/support/releases.py FOLDER

writes FOLDER/source (bf16, with vision tower and MTP head) and FOLDER/nvfp4 (text and MTP head,
linear layers in NVFP4 as ModelOpt names them). Template and special tokens are those of the
embedded model.
"""

import argparse
import json
import math
import shutil
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scion.architectures.inventory import Inventory, Shape, inventory
from scion.checkpoint.safetensors_file import DTYPE_BITS, Tensor, encode_header, packed
from scion.checkpoint.shards import index_headers, shard_name
from scion.common.files import write_json
from scion.formats.modelopt import (
    BLOCK,
    HF_QUANT_CONFIG,
    declared_exclusions,
    hf_quant_config,
    quantization_config,
)

SHARDS = 15
_PROJECT = Path(__file__).parents[2]
_PICO = _PROJECT / "resources/pico/pico-base"
_COPIED = (
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
_TOKENS = 248_000
# safetensors' writer puts these kinds first, within a kind the names in order.
_WRITTEN_FIRST = ("F32", "BF16", "F8_E4M3", "U8")
_SCALE = struct.pack("<f", 0.001)


def generate(folder: Path) -> None:
    """Write `folder/source` and `folder/nvfp4`; the folder is made if it is not there."""
    config = config_of_27b()
    expected = inventory(config, where="the generated config.json")
    tensors = [_tensor(name, "BF16", shape) for name, shape in expected.tensors.items()]
    _write(folder / "source", config, tensors)
    del config["vision_config"]
    exclude = declared_exclusions(expected.family, expected.kept)
    scheme = quantization_config(exclude, producer={"name": "modelopt", "version": "0.47.0"})
    _write(folder / "nvfp4", {**config, "quantization_config": scheme}, _quantized(expected))
    write_json(folder / "nvfp4" / HF_QUANT_CONFIG, hf_quant_config(scheme))


def config_of_27b() -> dict[str, Any]:
    """The embedded model's config.json with the dimensions of a 27B one."""
    config = json.loads((_PICO / "config.json").read_bytes())
    shape = json.loads((_PROJECT / "tools/shapes/qwen3.6-27b.json").read_bytes())
    text = {key: value for key, value in config["text_config"].items() if key != "layer_types"}
    return {
        **config,
        **shape,
        "text_config": {**text, **shape["text_config"]},
        "vision_config": {**config["vision_config"], **shape["vision_config"]},
    }


def _tensor(name: str, dtype: str, shape: Shape) -> Tensor:
    return Tensor(name, dtype, shape, 0, math.prod(shape) * DTYPE_BITS[dtype] // 8)


def _quantized(expected: Inventory) -> Iterator[Tensor]:
    matrices = {f"{module}.weight" for module in expected.quantized}
    for name, shape in {**expected.language, **expected.mtp}.items():
        if name not in matrices:
            yield _tensor(name, "BF16", shape)
            continue
        rows, columns = shape
        yield _tensor(name, "U8", (rows, columns // 2))
        yield _tensor(f"{name}_scale", "F8_E4M3", (rows, columns // BLOCK))
        yield _tensor(f"{name}_scale_2", "F32", ())
        yield _tensor(f"{name.removesuffix('weight')}input_scale", "F32", ())


def _write(folder: Path, config: Mapping[str, Any], tensors: Iterable[Tensor]) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    for name in _COPIED:
        shutil.copy(_PICO / name, folder)
    (folder / "tokenizer.json").write_text(_tokenizer())
    groups = list(_grouped(list(tensors)))
    names = [shard_name(number, len(groups)) for number in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        _write_shard(folder / name, group)
    index_headers(folder, names)


def _grouped(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in `SHARDS` groups of about equal bytes."""
    total, position, number = sum(tensor.size for tensor in tensors), 0, 1
    group: list[Tensor] = []
    for tensor in tensors:
        if group and position + tensor.size / 2 > total * number / SHARDS:
            yield group
            group, number = [], number + 1
        group.append(tensor)
        position += tensor.size
    yield group


def _write_shard(path: Path, tensors: Sequence[Tensor]) -> None:
    def place(tensor: Tensor) -> tuple[int, str]:
        return _WRITTEN_FIRST.index(tensor.dtype), tensor.name

    placed = packed(sorted(tensors, key=place))
    with path.open("wb") as file:
        file.write(encode_header(placed, {"format": "pt"}))
        start = file.tell()
        for tensor in placed:
            if tensor.dtype == "F32":
                file.write(_SCALE)
        file.truncate(start + placed[-1].end)


def _tokenizer() -> str:
    """The embedded model's tokenizer with as many more tokens and merges as a real one has."""
    tokenizer = json.loads((_PICO / "tokenizer.json").read_bytes())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    first = 1 + max(*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"]))
    for number in range(first, _TOKENS):
        # Byte-level vocabularies spell a space as Ġ, and bytes beyond ASCII as other letters.
        left, right = f"Ġ{number:x}"[:4], f"æĸĩ{number:x}"
        vocabulary[left + right] = number
        merges.append([left, right])
    return json.dumps(tokenizer, indent=2, ensure_ascii=False)


def main() -> int:
    """Parse arguments and generate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write source/ and nvfp4/")
    generate(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
