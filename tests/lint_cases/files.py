"""Weight files and indexes that don't fit together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lint_cases import Case
from lint_checkpoints import plain, read_tensors, write_shard
from scion.checkpoint.shards import INDEX, SINGLE, shard_name

FIRST, SECOND = shard_name(1, 2), shard_name(2, 2)
EMBEDDING = "model.language_model.embed_tokens.weight"
EXTRA = "model.language_model.extra.weight"


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_shard(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter the tensors of one file and leave the index as it is."""
    tensors = shard_tensors(path)
    change(tensors)
    write_shard(path, tensors)


def shard_tensors(path: Path) -> dict[str, Any]:
    names = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    return {name: stored for name, stored in read_tensors(path.parent).items() if name in names}


def map_to(folder: Path, tensor: str, shard: str) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({tensor: shard}))


def add_to_second(folder: Path, shape: tuple[int, ...] | None = None) -> None:
    """Put a tensor of the first shard into the second one too, in its own shape or another."""
    copy = plain("copy", shape or shard_tensors(folder / FIRST)[EMBEDDING].shape)
    edit_shard(folder / SECOND, lambda tensors: tensors.update({EMBEDDING: copy}))


def add_model_safetensors(folder: Path) -> None:
    write_shard(folder / SINGLE, {EMBEDDING: plain(EMBEDDING, (1024, 8))})


def add_consolidated(folder: Path) -> None:
    write_shard(folder / "consolidated.safetensors", {"tok_embeddings.weight": plain("a", (8, 8))})


def swap(folder: Path) -> None:
    """Let the index name the other shard for a tensor of each."""
    first, second = (next(iter(shard_tensors(folder / shard))) for shard in (FIRST, SECOND))
    map_to(folder, first, SECOND)
    map_to(folder, second, FIRST)


def renumber(folder: Path, count: int) -> None:
    """Call the shards the first two of `count`."""
    for number in (1, 2):
        (folder / shard_name(number, 2)).rename(folder / shard_name(number, count))
    text = (folder / INDEX).read_text().replace("of-00002", f"of-{count:05}")
    (folder / INDEX).write_text(text)


def mix_counts(folder: Path) -> None:
    (folder / SECOND).rename(folder / shard_name(3, 3))
    (folder / INDEX).write_text((folder / INDEX).read_text().replace(SECOND, shard_name(3, 3)))


def name_code(file: str, section: str | None = None) -> Callable[[Path], object]:
    """Let a config, or a section of it, name a class of a file of Python."""

    def change(content: dict[str, Any]) -> None:
        place = content[section] if section else content
        place["auto_map"] = {"AutoModelForCausalLM": "elsewhere/code--modeling.Model"}

    def break_it(folder: Path) -> None:
        if not (folder / file).exists():
            (folder / file).write_text("{}")
        edit_json(folder / file, change)

    return break_it


CASES = [
    Case("F101", lambda folder: (folder / SECOND).unlink(), subject=SECOND),
    Case(
        "F101",
        lambda folder: (folder / SECOND).unlink(),
        "silent",
        spelling="modelopt",
        engines=("vllm==0.25.1",),
        subject=SECOND,
    ),
    Case("F102", lambda folder: add_to_second(folder, (3, 5)), subject=EMBEDDING),
    Case("F103", lambda folder: add_to_second(folder), subject=EMBEDDING),
    Case("F104", add_model_safetensors),
    Case("F105", add_consolidated),
    Case("F105", add_consolidated, "without an index", shards=1),
    Case(
        "F106", lambda folder: write_shard(folder / "mtp.safetensors", {EXTRA: plain("a", (2, 2))})
    ),
    Case("F107", lambda folder: (folder / INDEX).unlink(), "several"),
    Case("F107", lambda folder: (folder / SINGLE).rename(folder / "weights.safetensors"), shards=1),
    Case("F108", lambda folder: renumber(folder, 3), "a gap"),
    Case("F108", mix_counts, "two counts"),
    Case("F109", lambda folder: write_shard(folder / "empty.safetensors", {})),
    Case("F121", lambda folder: map_to(folder, EXTRA, FIRST), subject=EXTRA),
    Case("F122", swap),
    Case(
        "F123",
        lambda folder: edit_shard(
            folder / FIRST, lambda tensors: tensors.update({EXTRA: plain("a", (2, 2))})
        ),
        subject=EXTRA,
    ),
    Case("F124", lambda folder: edit_json(folder / INDEX, lambda index: index.pop("metadata"))),
    Case(
        "F125",
        lambda folder: edit_json(
            folder / INDEX, lambda index: index["metadata"].update(total_size=1)
        ),
    ),
    Case("F126", lambda folder: (folder / SECOND).write_bytes(b"{}"), "a shard"),
    Case("F126", lambda folder: (folder / INDEX).write_text("[]"), "the index"),
    Case("F126", lambda folder: (folder / "config.json").write_text(""), "config.json"),
    Case("F127", lambda folder: (folder / "config.json").unlink()),
    Case("F131", lambda folder: (folder / "modeling_own.py").write_text("import os")),
    Case("F132", lambda folder: (folder / "tokenizer.PKL").write_bytes(b"cos\n"), "any case"),
    Case("F132", lambda folder: (folder / "training_args.bin").write_bytes(b"")),
    *(
        Case("F133", change, about, subject=key)
        for about, key, change in (
            ("of the model", "auto_map", name_code("config.json")),
            ("of a part", "text_config.auto_map", name_code("config.json", "text_config")),
            ("of the tokenizer", "auto_map", name_code("tokenizer_config.json")),
        )
    ),
]
