"""Write a checkpoint of random weights in the shape of a published model, and its MTP donor.

With it every path of the workflow runs at full size on one GPU machine, without network: formats,
memory, times and launches are those of the real model, and the text it writes is noise.

    python tools/random_checkpoint.py OUT --shape qwen3.6-27b

writes OUT/source, bf16 with vision tower and without MTP head as fine-tunes are published, and
OUT/base, the MTP head alone, for `source` and `donor` of a release's config. Names and shapes are
those that `scion.architectures.inventory` derives from the config.json, experts are stacked.
Tokenizer and chat template are the embedded model's, its vocabulary filled up to the model's with
tokens that no text is encoded as, since random weights draw any id.

Each tensor has a seed of its own, so neither order nor shards change its numbers. CPU and GPU draw
different numbers from one seed, and so may GPUs of different kinds.
"""

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from scion.architectures.families import vision_prefixes
from scion.architectures.inventory import Inventory, Shape, inventory
from scion.checkpoint.safetensors_file import Tensor, encode_header, packed
from scion.checkpoint.shards import CONFIG, index_headers, read_object, shard_name
from scion.common.digest import in_parallel
from scion.common.errors import ScionError, exit_on_error
from scion.common.files import write_json

SHAPES = Path(__file__).parent / "shapes"
_RESOURCES = Path(__file__).parent.parent / "resources/pico"
PICO = _RESOURCES / "pico-agent"
_CONFIGS = {
    "qwen3_5": PICO / CONFIG,
    "qwen3_5_moe": _RESOURCES / "assets/config-mixture.json",
}
"""An embedded model's config.json by model_type."""
_COPIED = (
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
# What is drawn and written at a time: 64 MiB for each thread, on the device and in memory.
_CHUNK = 32 << 20
_BF16_BYTES = 2
# What RMSNorms of this family multiply with is 1 + weight, but for the delta net's own.
_ONES = (".linear_attn.norm.weight", ".dt_bias")


def generate(
    output: Path,
    config: Mapping[str, Any],
    *,
    device: str = "auto",
    seed: int = 0,
    shard_gigabytes: float = 5,
) -> int:
    """Write `output/source` and `output/base`, both or neither.

    Args:
        output: The folder to make.
        config: A config.json, as `shaped_config` makes it.
        device: Where numbers are drawn: `cuda`, `cpu`, or `auto`, which takes a GPU if there is
            one.
        seed: Another seed gives other weights.
        shard_gigabytes: A shard is closed before it would grow past this (10^9 bytes). The vision
            tower has shards of its own.

    Returns:
        The bytes of all tensors.

    Raises:
        ScionError: The folder is there already, the disk has no room, or the config is unusable.
    """
    expected = inventory(config, where="the shape")
    limit = int(shard_gigabytes * 1e9)
    language, head = (_stacked(part, expected) for part in (expected.language, expected.mtp))
    source = [*_grouped(language, limit), *_grouped(expected.vision, limit)]
    folders = {"source": source, "base": list(_grouped(head, limit))}
    size = sum(tensor.size for groups in folders.values() for group in groups for tensor in group)
    _require_room(output, size)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    draft = output.with_name(f".{output.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for name, groups in folders.items():
            (draft / name).mkdir(parents=True)
            write_json(draft / name / CONFIG, config)
            _write_shards(draft / name, groups, device=device, seed=seed)
        _write_companions(draft / "source", config["text_config"])
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return size


def shaped_config(shape: Mapping[str, Any], *, layers: int | None = None) -> dict[str, Any]:
    """The embedded model's config.json with the sizes of another.

    Args:
        shape: `text_config` and `vision_config` of a config.json, and its `model_type` if it is not
            dense. Token ids in it are ignored: the tokenizer is the embedded model's.
        layers: Number of decoder layers, if not the shape's.
    """
    config = read_object(_CONFIGS[shape.get("model_type", "qwen3_5")])
    own_text = {key: value for key, value in config["text_config"].items() if key != "layer_types"}
    text = {**own_text, **_without_token_ids(shape["text_config"])}
    if layers is not None:
        text |= {"num_hidden_layers": layers, "layer_types": None}
    if not text.get("layer_types"):
        every = text["full_attention_interval"]
        text["layer_types"] = [
            "linear_attention" if number % every else "full_attention"
            for number in range(1, text["num_hidden_layers"] + 1)
        ]
    tied = shape.get("tie_word_embeddings", False)
    return {
        **config,
        "tie_word_embeddings": tied,
        "text_config": {**text, "tie_word_embeddings": tied},
        "vision_config": {**config["vision_config"], **shape["vision_config"]},
    }


def initial(name: str, shape: Shape) -> Literal["normal", "ones", "zeros", "log_uniform"]:
    """How a tensor begins: as before training, so that activations stay finite in all layers."""
    if name.endswith(".A_log"):
        return "log_uniform"
    if name.endswith(".bias"):
        return "zeros"
    if len(shape) > 1:
        return "normal"
    return "ones" if name.endswith(_ONES) or name.startswith(vision_prefixes()) else "zeros"


def filled_tokenizer(size: int) -> dict[str, Any]:
    """The embedded tokenizer.json with tokens for all ids below `size`.

    The tokens that fill it up (` w1024`, ` w1025`, …) have no merges: ids are decoded to them, and
    no text is encoded as them.

    Raises:
        ScionError: The embedded tokenizer has more tokens.
    """
    tokenizer = read_object(PICO / "tokenizer.json")
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    first = len(vocabulary)
    if size < first:
        raise ScionError(
            "the shape's vocabulary is too small",
            where=PICO / "tokenizer.json",
            expected=f"a vocab_size of {first} or more, the tokens of the embedded tokenizer",
            found=size,
            hint="name a shape with a larger vocab_size",
        )
    # Byte-level vocabularies spell a space as Ġ.
    vocabulary |= {f"Ġw{number}": number for number in range(first, size)}
    return tokenizer


def _without_token_ids(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.endswith("_token_id")}


def _stacked(shapes: Mapping[str, Shape], expected: Inventory) -> dict[str, Shape]:
    """The same with a stack in place of its members."""
    stack_of = {m: name for name, stack in expected.stacked.items() for m in stack.members}
    return {
        name: expected.storable[name] for name in dict.fromkeys(stack_of.get(n, n) for n in shapes)
    }


def _grouped(shapes: Mapping[str, Shape], limit: int) -> Iterable[list[Tensor]]:
    """The tensors in order, in groups of at most `limit` bytes or of one tensor."""
    group, size = list[Tensor](), 0
    for name, shape in shapes.items():
        tensor = Tensor(name, "BF16", shape, 0, math.prod(shape) * _BF16_BYTES)
        if group and size + tensor.size > limit:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.size
    if group:
        yield group


def _require_room(output: Path, size: int) -> None:
    if output.exists():
        raise ScionError(
            "the folder to write is there already",
            where=output,
            expected="a path that does not exist",
            found="a folder" if output.is_dir() else "a file",
            hint="remove it, or name another",
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < size:
        raise ScionError(
            "the checkpoint does not fit",
            where=output.parent,
            expected=f"{size / 1e9:.1f} GB free",
            found=f"{free / 1e9:.1f} GB",
            hint="name a folder on a larger disk, or fewer --layers",
        )


def _write_shards(folder: Path, groups: list[list[Tensor]], *, device: str, seed: int) -> None:
    """Write the groups as numbered shards with their index, one thread a core."""
    names = [shard_name(number, len(groups)) for number in range(1, len(groups) + 1)]
    start = time.monotonic()

    def write(work: tuple[str, list[Tensor]]) -> None:
        name, group = work
        _write_shard(folder / name, group, device=device, seed=seed)
        size, seconds = sum(tensor.size for tensor in group), time.monotonic() - start
        progress = f"{folder.name}/{name}: {len(group)} tensors, {size / 1e9:.2f} GB"
        print(f"{progress}, after {seconds:.0f} s", file=sys.stderr)

    in_parallel(write, zip(names, groups, strict=True))
    index_headers(folder, names)


def _write_shard(path: Path, group: list[Tensor], *, device: str, seed: int) -> None:
    chunk = min(_CHUNK, max(tensor.size for tensor in group) // _BF16_BYTES)
    drawn = torch.empty(chunk, dtype=torch.bfloat16, device=device)
    # The GPU copies several times faster to memory that is pinned.
    host = torch.empty(chunk, dtype=torch.bfloat16, pin_memory=True) if drawn.is_cuda else drawn
    raw = host.view(torch.uint8).numpy().data
    with path.open("wb") as file:
        file.write(encode_header(packed(group), {"format": "pt"}))
        for tensor in group:
            generator = torch.Generator(device).manual_seed(_seed(seed, tensor.name))
            kind = initial(tensor.name, tensor.shape)
            for begin in range(0, tensor.size // _BF16_BYTES, chunk):
                count = min(chunk, tensor.size // _BF16_BYTES - begin)
                _fill(drawn[:count], kind, generator)
                if host is not drawn:
                    host[:count].copy_(drawn[:count])
                file.write(raw[: count * _BF16_BYTES])


def _fill(numbers: torch.Tensor, kind: str, generator: torch.Generator) -> None:
    if kind == "normal":
        numbers.normal_(0, 0.02, generator=generator)
    elif kind == "log_uniform":
        numbers.uniform_(1, 16, generator=generator).log_()
    else:
        numbers.fill_(1 if kind == "ones" else 0)


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]) >> 1


def _write_companions(folder: Path, text: Mapping[str, Any]) -> None:
    """Write everything of a checkpoint that is neither weights nor config.json."""
    for name in _COPIED:
        shutil.copyfile(PICO / name, folder / name)
    tokenizer_config = read_object(PICO / "tokenizer_config.json")
    tokenizer_config["model_max_length"] = text["max_position_embeddings"]
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    write_json(folder / "tokenizer.json", filled_tokenizer(text["vocab_size"]))


def _shape(name: str) -> dict[str, Any]:
    known = SHAPES / f"{name}.json"
    return read_object(known if known.exists() else Path(name))


def main() -> int:
    """Parse arguments and generate; the last line is JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(sorted(path.stem for path in SHAPES.glob("*.json")))
    parser.add_argument("output", type=Path, help="the folder to make, with source/ and base/")
    parser.add_argument(
        "--shape",
        default="qwen3.6-27b",
        help=f"{known}, or the path of a Qwen3.5/3.6 config.json (default: %(default)s)",
    )
    parser.add_argument("--layers", type=int, help="number of decoder layers, for a smaller one")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--shard-gigabytes", type=float, default=5, help="largest shard (default: %(default)s)"
    )
    args = parser.parse_args()

    def command() -> None:
        start = time.monotonic()
        size = generate(
            args.output,
            shaped_config(_shape(args.shape), layers=args.layers),
            device=args.device,
            seed=args.seed,
            shard_gigabytes=args.shard_gigabytes,
        )
        seconds = round(time.monotonic() - start, 1)
        print(json.dumps({"output": str(args.output), "bytes": size, "seconds": seconds}))

    return exit_on_error(command)


if __name__ == "__main__":
    sys.exit(main())
