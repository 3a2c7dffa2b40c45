import json
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion
from lint_cases.layouts import in_peft
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.common.errors import ScionError
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys

Rename = Callable[[str], str]
LANGUAGE, VISION = "model.language_model.", "model.visual."


def fix(folder: Path) -> tuple[Artifact, Artifact]:
    results = folder.parent
    source = fetch_source(
        location=str(folder), output=Output.at(results / "fetch_source"), environment=ENVIRONMENT
    )
    output = results / "fix_keys"
    return source, fix_keys(source=source, output=Output.at(output), environment=ENVIRONMENT)


BROKEN: dict[str, Rename] = {
    "language_model three times before every key": lambda name: "language_model." * 3 + name,
    "language_model three times after model": lambda name: (
        name.replace("model.", "model." + "language_model." * 2, 1)
        if name.startswith("model.")
        else "language_model." * 3 + name
    ),
    "model twice": lambda name: f"model.{name}" if name.startswith("model.") else name,
    "the tower below the language model": lambda name: name.replace(
        VISION, "model.language_model.visual."
    ),
    "both prefixes again": lambda name: f"{LANGUAGE}{name}",
    "language_model left out": lambda name: name.replace(LANGUAGE, "model."),
    "PEFT's wrappers": in_peft,
    "PEFT's wrappers around a repeated prefix": lambda name: in_peft(
        name.replace(LANGUAGE, LANGUAGE + "language_model.")
    ),
    "model left out": lambda name: (
        name.removeprefix("model.") if name.startswith(LANGUAGE) else name
    ),
}


@pytest.mark.parametrize("rename", BROKEN.values(), ids=BROKEN)
def test_any_repeated_prefix_is_found_and_no_byte_changes(tmp_path: Path, rename: Rename) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config(), rename=rename)
    source, fixed = fix(folder)
    expected = inventory(tiny_config(), where="x")
    wanted = [*expected.language, *expected.vision, *expected.mtp]
    assert fixed.tensors().keys() == set(wanted)
    before = source.tensors()
    for name in wanted:
        assert fixed.tensors()[name]["sha256"] == before[rename(name)]["sha256"]
        assert fixed.tensors()[name]["shape"] == before[rename(name)]["shape"]
    assert fixed.facts["renamed_tensors"] == sum(rename(name) != name for name in wanted)
    assert Checkpoint.open(fixed.folder).shard_of.keys() == set(wanted)


def test_the_embedded_source_is_repaired_in_place_of_its_header(conversion: Conversion) -> None:
    before, after = conversion.fetch_source.tensors(), conversion.fix_keys.tensors()
    assert sorted(row["sha256"] for row in before.values()) == sorted(
        row["sha256"] for row in after.values()
    )
    # Data stays at its offset: the shorter header is padded.
    assert {(row["file"], *row["range"]) for row in before.values()} == {
        (row["file"], *row["range"]) for row in after.values()
    }
    facts = conversion.fix_keys.facts
    assert facts["renamed_tensors"] == facts["tensors"] == len(after)
    assert facts["mtp_missing"] is True
    assert sum(rule["tensors"] for rule in facts["prefixes"]) == len(after)
    assert all(rule["found"].count("language_model.") == 3 for rule in facts["prefixes"])


def test_a_sound_checkpoint_passes_by_hard_link(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    source, fixed = fix(folder)
    assert fixed.files == source.files
    for name in (*Checkpoint.open(folder).headers, INDEX, "config.json"):
        assert (fixed.folder / name).samefile(folder / name)
    assert fixed.facts["renamed_tensors"] == 0
    assert fixed.facts["prefixes"] == []


def test_a_shard_whose_keys_are_sound_is_linked(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "model",
        tiny_config(),
        shards=60,
        rename=lambda name: f"model.{name}" if name.startswith(VISION) else name,
    )
    _, fixed = fix(folder)
    shards = {
        name: {key.startswith(f"model.{VISION}") for key in header.tensors}
        for name, header in Checkpoint.open(folder).headers.items()
    }
    for name, kinds in shards.items():
        assert (fixed.folder / name).samefile(folder / name) is (kinds == {False})


@pytest.mark.parametrize(
    ("rename", "found"),
    [
        (lambda name: f"wrapper.{name}", "unexpected"),
        (lambda name: name.replace("q_proj", "query"), "unexpected"),
        (lambda name: name if "lm_head" in name else name.split(".", 3)[-1], "unexpected"),
    ],
    ids=["a foreign prefix", "a foreign module", "names cut until ambiguous"],
)
def test_keys_that_are_no_repetition_are_refused(
    tmp_path: Path, rename: Rename, found: str
) -> None:
    expected = inventory(tiny_config(), where="x")
    names = [*expected.language, *expected.vision, *expected.mtp]
    if len({rename(name) for name in names}) < len(names):
        rename = disambiguated(rename, names)
    folder = write_checkpoint(tmp_path / "model", tiny_config(), rename=rename)
    with pytest.raises(ScionError, match="tensors are not those that") as caught:
        fix(folder)
    assert found in caught.value.found
    assert not (tmp_path / "fix_keys").exists()


def disambiguated(rename: Rename, names: list[str]) -> Rename:
    """A renaming under which no two of `names` fall together; the later one keeps its name."""
    given: dict[str, str] = {}
    for name in names:
        short = rename(name)
        given[name] = name if short in given.values() else short
    return given.__getitem__


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    config = tiny_config()
    folder = write_checkpoint(tmp_path / "model", tiny_config(num_hidden_layers=2))
    config["text_config"] |= {"num_hidden_layers": 3, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ScionError) as caught:
        fix(folder)
    assert "missing, first model.language_model.layers." in caught.value.found


def test_a_shape_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    (folder / "config.json").write_text(json.dumps(tiny_config(vocab_size=64)))
    with pytest.raises(ScionError, match="shape is not the one") as caught:
        fix(folder)
    assert caught.value.expected.startswith("[64, 32]")
    assert caught.value.found == "[48, 32]"


def test_a_source_edited_after_it_was_fetched_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "model", tiny_config(), rename=lambda name: "language_model." * 3 + name
    )
    source = fetch_source(
        location=str(folder), output=Output.at(tmp_path / "fetch_source"), environment=ENVIRONMENT
    )
    shard = folder / "model-00001-of-00002.safetensors"
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ScionError, match="not what fetch_source recorded"):
        fix_keys(source=source, output=Output.at(tmp_path / "fix_keys"), environment=ENVIRONMENT)
    assert not (tmp_path / "fix_keys").exists()
