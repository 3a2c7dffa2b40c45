"""What findings advise is done, and the checkpoint linted again: the fault and no other is left."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from checkpoints import edit_json
from conversion import ENVIRONMENT
from lint_cases import files, layouts, names
from lint_cases.scheme import set_exclusions
from lint_checkpoints import (
    Spelling,
    Stored,
    edit_tensors,
    llama,
    plain,
    qwen35,
    read_tensors,
    rename_tensors,
    sound,
    write_shard,
)
from scion.architectures.families import QWEN3_5
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.config import Mtp
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.parts_check import check_parts
from scion.checkpoint.preview import preview
from scion.checkpoint.shards import INDEX, SINGLE, index_headers, shard_name
from scion.common.errors import ScionError
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engine
from scion.lint.all_rules import RULES
from scion.lint.rule import Result, run, select_rules
from scion.lint.subject import Subject
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys

Act = Callable[[Path], object]
TEXT_ONLY = {key: value for key, value in qwen35().items() if key != "vision_config"}
TEXT_ONLY["text_config"] = {**TEXT_ONLY["text_config"], "mtp_num_hidden_layers": 0}


@dataclass(frozen=True)
class Repair:
    """A fault, and one way to mend it that its rule tells.

    Attributes:
        rule: The code of the rule.
        about: A few words: the test's name.
        break_it: Called with the folder of a sound checkpoint.
        repair: Called with the folder after that.
        spelling: The sound checkpoint's number format.
        config: Its config.json.
        engines: The releases that it is judged for; empty: the default.
        shards: Its number of files.
    """

    rule: str
    about: str
    break_it: Act
    repair: Act
    spelling: Spelling = "bf16"
    config: dict[str, Any] = field(default_factory=qwen35)
    engines: tuple[str, ...] = ()
    shards: int = 2


def lint(folder: Path, *engines: str) -> dict[str, Result]:
    """A result of each rule that finds something, by its code."""
    chosen = [engine for word in engines for engine in parse_engine(word)] or DEFAULT_ENGINES
    subject = Subject.open(open_source(str(folder)), engines=chosen)
    return {result.rule.code: result for result in run(subject, select_rules(RULES, deep=True))}


def write_index(folder: Path) -> None:
    """The index anew from the shards' headers."""
    source = open_source(str(folder))
    shards = sorted(name for name in source.files if name.endswith(".safetensors"))
    (folder / INDEX).unlink(missing_ok=True)
    index_headers(folder, source.headers(shards))


def remove(*listed: str, index: bool = False) -> Act:
    """Remove files, and write the index anew after that if asked to."""

    def act(folder: Path) -> None:
        for name in listed:
            (folder / name).unlink()
        if index:
            write_index(folder)

    return act


def take_from_second(folder: Path) -> None:
    """Remove the tensor that lies in two files from one of them."""
    files.edit_shard(folder / files.SECOND, lambda tensors: tensors.pop(files.EMBEDDING))
    write_index(folder)


def number_again(folder: Path) -> None:
    """Name the shards after their number, and write the index."""
    shards = sorted(folder.glob("*.safetensors"))
    for number, path in enumerate(shards):
        path.rename(folder / f"x{number}")
    for number in range(len(shards)):
        (folder / f"x{number}").rename(folder / shard_name(number + 1, len(shards)))
    write_index(folder)


def add_file(folder: Path) -> None:
    """Move a tensor into a file that the index does not name."""
    tensors = files.shard_tensors(folder / files.SECOND)
    name = next(iter(tensors))
    write_shard(folder / "more.safetensors", {name: tensors.pop(name)})
    write_shard(folder / files.SECOND, tensors)
    files.edit_json(folder / INDEX, lambda index: index["weight_map"].pop(name))


def move_adapter(folder: Path) -> None:
    elsewhere = folder / "adapter"
    elsewhere.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).rename(elsewhere / name)


def flatten(folder: Path) -> None:
    """Publish the language model alone, without `language_model.` in names and lists."""
    rename_tensors(folder, lambda name: name.replace(names.NESTED, "model."))

    def alone(config: dict[str, Any]) -> dict[str, Any]:
        scheme = {
            key: config[key]
            for key in ("quantization_config", "tie_word_embeddings", "dtype")
            if key in config
        }
        return {
            **config["text_config"],
            **scheme,
            "architectures": [QWEN3_5.spellings()[1].architecture],
        }

    edit_json(folder / "config.json", alone)
    scheme = json.loads((folder / "config.json").read_text()).get("quantization_config")
    if scheme:
        entries = (name.replace(names.NESTED, "model.") for name in scheme["ignore"])
        set_exclusions(
            folder, *(name for name in entries if not name.startswith(("mtp", "model.visual")))
        )


def nest(folder: Path) -> None:
    """Publish a language model alone as its whole class, as the workflow's releases are."""
    layouts.nest_names(folder)

    def whole(text: dict[str, Any]) -> dict[str, Any]:
        kept = {key: text.pop(key) for key in ("dtype", "tie_word_embeddings")}
        del text["architectures"]
        return {**TEXT_ONLY, **kept, "text_config": text}

    edit_json(folder / "config.json", whole)


def untie(folder: Path) -> None:
    """Write the head, say so, and exclude it."""
    embedding = read_tensors(folder)[f"{names.NESTED}embed_tokens.weight"]
    edit_tensors(folder, lambda tensors: tensors.update({"lm_head.weight": embedding}))
    edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    listed = json.loads((folder / "config.json").read_text())["quantization_config"]["ignore"]
    set_exclusions(folder, *{*listed, "lm_head"} - {"mtp*"})


def set_tied(tied: bool) -> Act:
    return lambda folder: edit_json(
        folder / "config.json", lambda config: config.update(tie_word_embeddings=tied)
    )


def tie_without_head(folder: Path) -> None:
    """A ModelOpt checkpoint whose head is the embeddings, and not listed."""
    names.tie_and_drop_head(folder)
    listed = json.loads((folder / "config.json").read_text())["quantization_config"]["ignore"]
    set_exclusions(folder, *(name for name in listed if name not in ("lm_head", "mtp*")))


def unpack_experts(folder: Path) -> None:
    """Put bf16 stacks in place of packed ones, and exclude them."""

    def change(tensors: dict[str, Stored]) -> None:
        for name in [name for name in tensors if name.endswith("_proj") and ".experts." in name]:
            *above, half = tensors[name].shape
            for suffix in ("_weight_scale", "_weight_scale_2", "_input_scale"):
                del tensors[name + suffix]
            tensors[name] = plain(name, (*above, half * 2))

    edit_tensors(folder, change)
    listed = json.loads((folder / "config.json").read_text())["quantization_config"]["ignore"]
    set_exclusions(folder, *listed, "*.mlp.experts*")


# Without a tower there is no processor of pictures either, and SGLang has to be told.
ONLY_FOR_PICTURES = {"C806"}


def convert_to_mlx(folder: Path) -> None:
    layouts.shift_norms(folder)
    layouts.to_mlx(folder)


def convert_from_mlx(folder: Path) -> None:
    """Names, convolutions and norms of transformers again."""

    def change(tensors: dict[str, Stored]) -> None:
        for name in list(tensors):
            stored = tensors.pop(name)
            if name.endswith("conv1d.weight"):
                channels, width, one = stored.shape
                stored = Stored(stored.dtype, (channels, one, width), stored.data)
            inner = name.removeprefix("language_model.")
            tensors[inner.replace("model.", names.NESTED, 1)] = stored

    edit_tensors(folder, change)
    assert lint(folder).keys() - ONLY_FOR_PICTURES == {"D706"}
    lower_norms(folder)


def lower_norms(folder: Path) -> None:
    def change(tensors: dict[str, Stored]) -> None:
        for name, stored in tensors.items():
            if name.endswith("norm.weight") and "linear_attn" not in name and "visual" not in name:
                tensors[name] = layouts.moved(stored, -1)

    edit_tensors(folder, change)


REPAIRS = [
    Repair("F102", "taken away", lambda f: files.add_to_second(f, (3, 5)), take_from_second),
    Repair("F103", "taken away", files.add_to_second, take_from_second),
    Repair("F104", "the single one goes", files.add_model_safetensors, remove(SINGLE)),
    Repair("F105", "it goes", files.add_consolidated, remove("consolidated.safetensors")),
    Repair(
        "F106",
        "a copy goes",
        lambda f: shutil.copy(f / files.FIRST, f / "copy.safetensors"),
        remove("copy.safetensors"),
    ),
    Repair("F106", "indexed", add_file, write_index),
    Repair("F107", "indexed", remove(INDEX), write_index),
    Repair(
        "F107",
        "renamed",
        lambda f: (f / SINGLE).rename(f / "weights.safetensors"),
        lambda f: (f / "weights.safetensors").rename(f / SINGLE),
        shards=1,
    ),
    Repair("F108", "numbered again", lambda f: files.renumber(f, 3), number_again),
    Repair(
        "F109", "it goes", lambda f: write_shard(f / "e.safetensors", {}), remove("e.safetensors")
    ),
    Repair("F110", "moved", layouts.leave_adapter, move_adapter),
    Repair("F110", "moved from one file", layouts.leave_adapter, move_adapter, shards=1),
    Repair("F122", "indexed", files.swap, write_index),
    Repair(
        "N205",
        "by hand",
        lambda f: rename_tensors(f, lambda n: n.removeprefix("model.")),
        lambda f: rename_tensors(f, lambda n: n if n.startswith("lm_head.") else f"model.{n}"),
        config=llama(),
    ),
    Repair("N206", "the language model alone", names.drop_tower, flatten),
    Repair("N206", "quantized", names.drop_tower, flatten, spelling="modelopt"),
    Repair(
        "N207", "untied", tie_without_head, untie, spelling="modelopt", engines=("vllm==0.24.0",)
    ),
    Repair("N208", "it was trained apart", set_tied(True), set_tied(False)),
    Repair("N208", "it is a copy", set_tied(True), names.drop_head),
    Repair(
        "N209",
        "left in bf16",
        layouts.restack(layouts.in_place),
        unpack_experts,
        spelling="modelopt",
        config=layouts.MOE,
    ),
    Repair("N211", "converted back", convert_to_mlx, convert_from_mlx, config=TEXT_ONLY),
    Repair(
        "N212",
        "renamed",
        layouts.nest_names,
        lambda f: rename_tensors(f, lambda n: n.replace(names.NESTED, "model.")),
        config=layouts.TEXT,
        engines=("vllm==0.27.0",),
    ),
    Repair(
        "N213",
        "as the whole class",
        lambda f: None,
        nest,
        config={**layouts.TEXT, "mtp_num_hidden_layers": 0},
        engines=("vllm==0.19.1",),
    ),
    Repair("D706", "1 taken away", layouts.shift_norms, lower_norms),
]


@pytest.mark.parametrize("case", REPAIRS, ids=lambda case: f"{case.rule} {case.about}")
def test_a_repair_leaves_no_fault(case: Repair, tmp_path: Path) -> None:
    folder = sound(
        tmp_path / "model", spelling=case.spelling, config=case.config, shards=case.shards
    )
    before = lint(folder, *case.engines).keys() - {case.rule}
    case.break_it(folder)
    assert case.rule in lint(folder, *case.engines)
    case.repair(folder)
    assert lint(folder, *case.engines).keys() <= before


BY_FIX_KEYS: dict[str, Act] = {
    "N201": names.repeat_prefix,
    "N205": names.flatten_names,
    "N210": layouts.wrap,
}


@pytest.mark.parametrize("rule", BY_FIX_KEYS)
def test_what_the_workflow_repairs_by_its_own_command(rule: str, tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    BY_FIX_KEYS[rule](folder)
    (result,) = lint(folder).values()
    assert result.rule.code == rule
    assert result.stage == "fix_keys"
    assert "fix_keys" in (result.command or "")
    assert lint(fixed(folder).folder).keys() == set()


def test_a_tower_that_is_missing_is_taken_out_of_config_json(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    names.drop_tower(folder)
    result = lint(folder)["N206"]
    assert result.stage == "extract_text"
    keys = fixed(folder)
    output = at(folder, "text")
    text = extract_text(fixed=keys, output=output, environment=ENVIRONMENT)
    assert lint(text.folder).keys() == ONLY_FOR_PICTURES
    with pytest.raises(ScionError, match="no vision tower to keep"):
        check_parts({"source": preview(str(keys.folder))}, Mtp(origin="source"), tower=True)


def fixed(folder: Path) -> Artifact:
    """What the workflow makes of a checkpoint up to fix_keys."""
    source = fetch_source(
        location=str(folder), output=at(folder, "source"), environment=ENVIRONMENT
    )
    return fix_keys(source=source, output=at(folder, "keys"), environment=ENVIRONMENT)


def at(folder: Path, name: str) -> Output:
    return Output.at(folder.parent / name)


def test_a_command_is_told_only_where_the_workflow_takes_the_checkpoint(tmp_path: Path) -> None:
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    classes = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    folder = sound(tmp_path / "model", config=llama(**classes, **experts))
    rename_tensors(folder, lambda name: f"model.{name}")
    result = lint(folder)["N201"]
    assert (result.command, result.stage) == (None, None)
    classifier = {**qwen35(), "architectures": ["Qwen3_5ForSequenceClassification"]}
    folder = sound(tmp_path / "classifier", config=classifier)
    names.repeat_prefix(folder)
    assert lint(folder)["N201"].command is None
