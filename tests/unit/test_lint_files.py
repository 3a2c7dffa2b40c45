import shutil
from pathlib import Path

import pytest

from lint_cases.files import FIRST, SECOND, add_consolidated, edit_json, edit_shard
from lint_checkpoints import PICO, plain, read_tensors, sound, write_shard
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.shards import INDEX, SINGLE
from scion.engines.registry.engines import DEFAULT_ENGINES, parse_engine
from scion.lint.rule import Result, run
from scion.lint.rules.files import RULES
from scion.lint.subject import Subject


def lint(folder: Path, *engines: str) -> list[Result]:
    chosen = [engine for word in engines for engine in parse_engine(word)] or DEFAULT_ENGINES
    return run(Subject.open(open_source(str(folder)), engines=chosen), RULES)


def codes(folder: Path) -> set[str]:
    return {result.rule.code for result in lint(folder)}


@pytest.mark.parametrize("name", ["pico-base", "pico-agent"])
def test_the_embedded_checkpoints_are_sound(name: str) -> None:
    assert lint(PICO.parent / name) == []


def test_one_file_without_an_index_is_sound(tmp_path: Path) -> None:
    assert lint(sound(tmp_path / "model", shards=1)) == []


def test_what_a_missing_shard_does_is_told_for_each_engine(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    (folder / SECOND).unlink()
    results = lint(folder, "vllm==0.25.1", "vllm==0.26.0", "sglang")
    told = {result.finding.engines: result.finding.found for result in results}
    assert list(told) == [("vllm 0.25.1",), ("vllm 0.26.0", "sglang 0.5.23")]
    assert "uninitialised" in told["vllm 0.25.1",]


def test_a_duplicate_says_who_reads_which_file_last(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    (folder / FIRST).rename(folder / "model-2.safetensors")
    (folder / SECOND).rename(folder / "model-10.safetensors")
    text = (folder / INDEX).read_text().replace(FIRST, "model-2.safetensors")
    (folder / INDEX).write_text(text.replace(SECOND, "model-10.safetensors"))
    assert lint(folder) == []
    for shard in ("model-2.safetensors", "model-10.safetensors"):
        edit_shard(folder / shard, lambda tensors: tensors.update(twice=plain("twice", (2, 2))))
    edit_json(folder / INDEX, lambda index: index["weight_map"].update(twice="model-2.safetensors"))
    (finding,) = [found.finding for found in lint(folder) if found.rule.code == "F103"]
    assert finding.found.endswith(
        "vLLM reads model-10.safetensors last, transformers model-2.safetensors"
    )


def test_duplicates_that_differ_are_told_with_their_shapes(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    for shard, size in ((FIRST, 2), (SECOND, 3)):
        twice = plain("twice", (size, size))
        edit_shard(folder / shard, lambda tensors, twice=twice: tensors.update(twice=twice))
    edit_json(folder / INDEX, lambda index: index["weight_map"].update(twice=FIRST))
    (finding,) = [found.finding for found in lint(folder) if found.rule.code == "F102"]
    assert f"{FIRST} (BF16 [2, 2]), {SECOND} (BF16 [3, 3])" in finding.found


def test_a_whole_copy_beside_the_index_wastes_room_only(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    write_shard(folder / SINGLE, read_tensors(folder))
    assert codes(folder) == {"F106"}


def test_mistrals_own_repositories_hold_both(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    add_consolidated(folder)
    assert codes(folder) == {"F105"}
    (folder / "params.json").write_text("{}")
    assert codes(folder) == set()


def test_only_vllm_prefers_consolidated_files(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    add_consolidated(folder)
    assert lint(folder, "sglang") == []


def test_an_index_of_a_lost_shard_is_not_told_twice(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    (folder / SECOND).unlink()
    assert codes(folder) == {"F101"}


def test_an_index_of_another_checkpoint(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    other = sound(tmp_path / "other", shards=3)
    shutil.copy(other / INDEX, folder / INDEX)
    assert "F101" in codes(folder)
