import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import half_made, snapshot, write_safetensors
from scion.artifacts import code_digest as provenance
from scion.artifacts.artifact import Artifact, Draft, manifest_root, remake
from scion.common.digest import digest_file
from scion.common.errors import ScionError

Build = Callable[[Draft], None]


def write_text(text: str) -> Build:
    def build(draft: Draft) -> None:
        (draft.folder / "file.txt").write_text(text)

    return build


def refuse(_draft: Draft) -> None:
    raise AssertionError("nothing was to be made")


def make(output: Path, build: Build, **changes: Any) -> Artifact:
    request: dict[str, Any] = {
        "stage": "demo",
        "inputs": {},
        "settings": {"a": 1},
        "environment": "sha256:e",
    }
    return remake(output, build=build, **{**request, **changes})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    make(tmp_path / "results/demo", write_text("first"))
    return tmp_path / "results/demo"


def identity(folder: Path) -> dict[str, tuple[int, int]]:
    paths = (folder, *folder.rglob("*"))
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_asked_again_nothing_is_touched(output: Path) -> None:
    before = identity(output)
    assert make(output, refuse).root == Artifact.open(output).root
    assert identity(output) == before


@pytest.mark.parametrize(
    "change",
    [{"settings": {"a": 2}}, {"environment": "sha256:f"}, {"stage": "other"}, {"volatile": True}],
    ids=lambda change: next(iter(change)),
)
def test_another_request_makes_it_anew(output: Path, change: dict[str, Any]) -> None:
    make(output, write_text("second"), **change)
    assert (output / "file.txt").read_text() == "second"
    assert half_made(output.parent) == []


def test_a_changed_input_makes_it_anew(tmp_path: Path) -> None:
    template, output = tmp_path / "template", tmp_path / "demo"
    template.write_text("1")
    first = make(output, write_text("first"), inputs={"template": template})
    make(output, refuse, inputs={"template": template})
    upstream = make(tmp_path / "up", write_text("x"), stage="up")
    second = make(output, write_text("same"), inputs={"template": template, "up": upstream})
    template.write_text("2")
    third = make(output, write_text("same"), inputs={"template": template, "up": upstream})
    other = make(tmp_path / "up", write_text("x"), stage="up", settings={"a": 2})
    fourth = make(output, write_text("same"), inputs={"template": template, "up": other})
    assert len({first.root, second.root, third.root, fourth.root}) == 4


def test_changed_code_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scion/stages").mkdir(parents=True)
    stage = tmp_path / "scion/stages/demo.py"
    stage.write_text("version = 1\n")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "scion")
    first = make(tmp_path / "demo", write_text("x"))
    make(tmp_path / "demo", refuse)
    stage.write_text("version = 2\n")
    assert make(tmp_path / "demo", write_text("x")).root != first.root


@pytest.mark.parametrize("damage", ["missing", "shorter", "edited manifest", "no object"])
def test_a_damaged_artifact_is_made_anew(output: Path, damage: str) -> None:
    manifest = output / "manifest.json"
    if damage == "missing":
        (output / "file.txt").unlink()
    elif damage == "shorter":
        (output / "file.txt").write_text("f")
    elif damage == "edited manifest":
        manifest.write_text(manifest.read_text().replace('"a": 1', '"a": 2'))
    else:
        manifest.write_text("[]")
    assert make(output, write_text("second")).check() == []


@pytest.mark.parametrize("error", [ScionError, KeyboardInterrupt, OSError])
def test_a_build_that_stops_leaves_the_earlier_artifact_alone(
    output: Path, error: type[BaseException]
) -> None:
    def build(draft: Draft) -> None:
        (draft.folder / "half").mkdir()
        (draft.folder / "half/file").write_text("x")
        if error is ScionError:
            raise ScionError("x", where="x", expected="x", found="x", hint="x")
        raise error

    before, identities = snapshot(output), identity(output)
    with pytest.raises(error):
        make(output, build, settings={"a": 2})
    assert (snapshot(output), identity(output)) == (before, identities)
    assert [path.name for path in output.parent.iterdir()] == ["demo"]


def test_a_build_that_stops_at_first_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        make(tmp_path / "results/demo", refuse)
    assert list((tmp_path / "results").iterdir()) == []


def test_a_crash_between_the_two_renames_is_undone(output: Path) -> None:
    before = snapshot(output)
    shutil.copytree(output, output.with_name(".demo.partial"))
    output.rename(output.with_name(".demo.replaced"))
    make(output, refuse)
    assert snapshot(output) == before
    assert half_made(output.parent) == []


def test_a_crash_after_both_renames_leaves_the_new_artifact(output: Path) -> None:
    before = snapshot(output)
    shutil.copytree(output, output.with_name(".demo.replaced"))
    make(output, refuse)
    assert snapshot(output) == before
    assert half_made(output.parent) == []


def test_check_lists_what_is_missing_changed_and_extra(tmp_path: Path) -> None:
    def build(draft: Draft) -> None:
        (draft.folder / "sub").mkdir()
        for name in ("kept", "changed", "sub/missing"):
            (draft.folder / name).write_text(name)

    artifact = make(tmp_path / "demo", build)
    assert artifact.check() == []
    (artifact.folder / "changed").write_text("CHANGED")
    (artifact.folder / "sub/missing").unlink()
    (artifact.folder / "sub/extra").touch()
    wanted = artifact.files["changed"]["sha256"]
    found = digest_file(artifact.folder / "changed")
    assert artifact.check() == [
        "sub/extra: not in the manifest",
        f"changed: expected {wanted}, found {found}",
        "sub/missing: missing",
    ]


def paths_into(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        return [path]
    return [inner for key in value for inner in paths_into(value[key], (*path, key))]


def test_the_root_covers_every_ingredient_but_not_their_order(tmp_path: Path) -> None:
    upstream = make(tmp_path / "up", write_text("x"), stage="up")

    def build(draft: Draft) -> None:
        write_safetensors(draft.folder / "model.safetensors", {"a": (2,)})
        draft.facts["count"] = 1

    artifact = make(tmp_path / "demo", build, inputs={"up": upstream})
    manifest = {key: value for key, value in artifact.manifest.items() if key != "root"}
    leaves = paths_into(manifest)
    roots = {artifact.root}
    for path in leaves:
        changed = json.loads(json.dumps(manifest))
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = "other"
        roots.add(manifest_root(changed))
    assert len(roots) == len(leaves) + 1
    assert {path[0] for path in leaves} == {
        *("format", "stage", "made_from", "settings", "code", "environment", "facts", "files")
    }
    assert manifest_root(dict(reversed(manifest.items()))) == artifact.root


def test_the_tensor_table_says_where_each_tensor_lies(tmp_path: Path) -> None:
    def build(draft: Draft) -> None:
        write_safetensors(draft.folder / "model.safetensors", {"b": (2, 3), "a": (1,)})

    first = make(tmp_path / "first", build)
    second = make(tmp_path / "second", lambda draft: draft.link(first, "model.safetensors", "new"))
    assert second.tensors() == {
        name: {**row, "file": "new"} for name, row in first.tensors().items()
    }
    for row in first.tensors().values():
        begin, end = row["range"]
        path = first.folder / row["file"]
        assert digest_file(path, offset=begin, size=end - begin) == row["sha256"]
    assert first.tensors()["b"]["shape"] == [2, 3]
