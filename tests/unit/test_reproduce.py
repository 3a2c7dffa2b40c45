"""`scion reproduce`: what is read of a release, what is prepared, and what is compared."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from checkpoints import edit_json
from conversion import Conversion
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_layout import REPRODUCTION
from scion.audit.reproduced import CONFIG, PublishedRecipe, command, outcome, prepare
from scion.cli import main as cli
from scion.common.errors import ScionError
from tampering import rehash, reroot


@pytest.fixture
def recipe(sealed_release: Path) -> PublishedRecipe:
    return PublishedRecipe.read(FolderTree(sealed_release))


def test_a_release_says_how_to_make_it_again(
    recipe: PublishedRecipe, conversion: Conversion
) -> None:
    assert recipe.stage == "graft_mtp"
    assert recipe.weights == conversion.graft_mtp.content
    rows = conversion.graft_mtp.tensors()
    assert recipe.tensors == {name: row["sha256"] for name, row in rows.items()}
    assert "fetch_source" in recipe.locks
    told = "\n".join(recipe.lines())
    for text in (recipe.weights, recipe.root, recipe.settings["source"], "274 tensors"):
        assert text in told


def test_what_contradicts_the_manifests_is_not_run(sealed_release: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    told = json.loads((folder / REPRODUCTION).read_text())
    told["settings"]["source"] = "hf://stranger/model"
    (folder / REPRODUCTION).write_text(json.dumps(told))
    reroot(folder)
    with pytest.raises(ScionError, match="contradicts its manifests"):
        PublishedRecipe.read(FolderTree(folder))


@pytest.mark.parametrize("name", ["/tmp/elsewhere", "../../x", ".", 5, None])
def test_a_release_that_names_folders_is_not_prepared(
    name: object,
    sealed_release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    edit_json(folder / MANIFEST, lambda m: m["settings"]["config"].update(release=name))
    rehash(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scion", "reproduce", str(folder), "--dry-run"])
    assert cli.main() == 2
    assert "the configuration is not valid" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_a_folder_is_prepared_once_and_for_one_release(
    recipe: PublishedRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    for _ in range(2):
        prepare(recipe, folder)
    # A configuration like any other, with a store in which nothing lies yet.
    config = yaml.safe_load((folder / CONFIG).read_text())
    assert config == {**recipe.settings, "store": ["results/.store"]}
    assert (folder / "resources/pico/pico-agent/config.json").is_file()
    other = replace(recipe, settings={**recipe.settings, "source": "elsewhere"})
    with pytest.raises(ScionError, match="another release's"):
        prepare(other, folder)
    assert yaml.safe_load((folder / CONFIG).read_text())["source"] == recipe.settings["source"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own/file").touch()
    with pytest.raises(ScionError, match="holds something else") as caught:
        prepare(recipe, tmp_path / "own")
    assert caught.value.found == "file"


def test_the_run_ends_where_the_weights_are_made(recipe: PublishedRecipe) -> None:
    words = command(recipe, "python", ["--cores", "2"])
    assert words[words.index("--until") + 1] == "graft_mtp"
    assert words[-2:] == ["--cores", "2"]


def made(conversion: Conversion, recipe: PublishedRecipe, folder: Path) -> None:
    """The results of a run, as they show."""
    shown = folder / "results" / recipe.settings["release"]
    shown.mkdir(parents=True)
    for stage in recipe.locks:
        source = conversion.folder / f"{stage}.json"
        if source.exists():
            (shown / stage).symlink_to(conversion.folder / stage)
            (shown / source.name).symlink_to(source)


def test_equal_weights_are_called_equal(
    recipe: PublishedRecipe, conversion: Conversion, tmp_path: Path
) -> None:
    made(conversion, recipe, tmp_path)
    found = outcome(recipe, tmp_path)
    assert found.is_equal(recipe)
    assert (found.differing, found.locks) == ((), ())


def test_other_weights_are_named_and_other_locks_are_told(
    recipe: PublishedRecipe, conversion: Conversion, tmp_path: Path
) -> None:
    made(conversion, recipe, tmp_path)
    name, *_, last = sorted(recipe.tensors)
    others = {**recipe.tensors, name: "0" * 64, "one.more": "0" * 64}
    del others[last]
    published = replace(
        recipe,
        weights="sha256:" + "0" * 64,
        tensors=others,
        locks={**recipe.locks, "fetch_source": "sha256:" + "1" * 64},
    )
    found = outcome(published, tmp_path)
    assert not found.is_equal(published)
    assert set(found.differing) == {name, last, "one.more"}
    assert found.locks == ("fetch_source",)
