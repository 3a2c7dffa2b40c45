import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoints import half_made, snapshot, write_safetensors
from scion.artifacts import code_digest as provenance
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Expectation, Output, remake
from scion.artifacts.manifest import manifest_digests
from scion.artifacts.store.store import Store
from scion.common.digest import digest_file
from scion.common.errors import ScionError

Build = Callable[[Draft], None]


def write_text(text: str) -> Build:
    def build(draft: Draft) -> None:
        (draft.folder / "file.txt").write_text(text)

    return build


def refuse(_draft: Draft) -> None:
    raise AssertionError("nothing was to be made")


def make(path: Path, build: Build, **changes: Any) -> Artifact:
    request: dict[str, Any] = {
        "stage": "demo",
        "inputs": {},
        "settings": {"a": 1},
        "environment": "sha256:e",
    }
    return remake(Output.at(path), build=build, **{**request, **changes})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    make(tmp_path / "results/demo", write_text("first"))
    return tmp_path / "results/demo"


def store_of(output: Path) -> Store:
    return Store.open([str(output.parent / ".store")])


def identity(folder: Path) -> dict[str, tuple[int, int]]:
    paths = (folder, *folder.rglob("*"))
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_asked_again_no_file_of_it_is_touched(output: Path) -> None:
    before = identity(output.resolve())
    assert make(output, refuse).root == Artifact.open(output).root
    assert identity(output.resolve()) == before


@pytest.mark.parametrize(
    "change",
    [{"settings": {"a": 2}}, {"environment": "sha256:f"}, {"stage": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_another_request_makes_another_and_the_first_stays(
    output: Path, change: dict[str, Any]
) -> None:
    first = Artifact.open(output)
    made = make(output, write_text("second"), **change)
    assert (output / "file.txt").read_text() == "second"
    assert made.content != first.content
    assert half_made(output.parent) == []
    assert make(output, refuse).content == first.content
    assert (output / "file.txt").read_text() == "first"


def test_a_changed_input_makes_it_anew(tmp_path: Path) -> None:
    template, output = tmp_path / "template", tmp_path / "demo"
    template.write_text("1")
    first = make(output, write_text("first"), inputs={"template": template})
    make(output, refuse, inputs={"template": template})
    upstream = make(tmp_path / "up", write_text("x"), stage="up")
    second = make(output, write_text("same"), inputs={"template": template, "up": upstream})
    template.write_text("2")
    third = make(output, write_text("same"), inputs={"template": template, "up": upstream})
    other = make(tmp_path / "up", write_text("y"), stage="up", settings={"a": 2})
    fourth = make(output, write_text("same"), inputs={"template": template, "up": other})
    assert len({first.root, second.root, third.root, fourth.root}) == 4
    assert second.content == third.content == fourth.content


def fact(value: int) -> Build:
    def build(draft: Draft) -> None:
        write_text("same")(draft)
        draft.facts["value"] = value

    return build


def test_what_is_made_from_equal_bytes_and_facts_is_not_made_again(tmp_path: Path) -> None:
    up, below = tmp_path / "up", tmp_path / "below"
    first = make(up, fact(1), stage="up")
    made = make(below, write_text("x"), inputs={"up": first})
    # Other settings, the same outcome.
    again = make(up, fact(1), stage="up", settings={"a": 2})
    assert again.root != first.root
    assert make(below, refuse, inputs={"up": again}).root == made.root
    # Stages quote facts, and the card quotes whole manifests.
    told = make(up, fact(2), stage="up", settings={"a": 3})
    assert told.content == first.content
    with pytest.raises(AssertionError):
        make(below, refuse, inputs={"up": told})
    make(below, write_text("x"), inputs={"up": first}, quotes_manifests=True)
    with pytest.raises(AssertionError):
        make(below, refuse, inputs={"up": again}, quotes_manifests=True)


def test_changed_code_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scion/stages").mkdir(parents=True)
    stage = tmp_path / "scion/stages/demo.py"
    stage.write_text("version = 1\n")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "scion")
    first = make(tmp_path / "demo", write_text("x"))
    make(tmp_path / "demo", refuse)
    stage.write_text("# The first.\nversion = 1\n")
    make(tmp_path / "demo", refuse)
    stage.write_text("version = 2\n")
    assert make(tmp_path / "demo", write_text("x")).root != first.root


def test_code_that_is_edited_while_it_runs_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scion/stages").mkdir(parents=True)
    stage = tmp_path / "scion/stages/demo.py"
    stage.write_text("version = 1\n")
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "scion")

    def build(draft: Draft) -> None:
        write_text("of which version?")(draft)
        stage.write_text("version = 2\n")

    with pytest.raises(ScionError, match="edited while it ran"):
        make(tmp_path / "results/demo", build)
    assert not (tmp_path / "results/demo.json").exists()
    assert half_made(tmp_path / "results") == []


@pytest.mark.parametrize("damage", ["missing", "shorter", "same size", "same times", "folder"])
def test_a_damaged_artifact_is_never_given_out(output: Path, damage: str) -> None:
    first = Artifact.open(output)
    file = output.resolve() / "file.txt"
    times = file.stat()
    if damage == "missing":
        file.unlink()
    elif damage == "folder":
        shutil.rmtree(output.resolve())
    else:
        file.chmod(0o644)
        file.write_text("f" if damage == "shorter" else "First")
    if damage == "same times":
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    store = store_of(output)
    with pytest.raises(ScionError, match=r"no longer|not what it was"):
        store.open_pointer(output.with_name("demo.json"))
    made = make(output, write_text("first"))
    assert made.check() == []
    assert made.content == first.content


@pytest.mark.parametrize("damage", ["edited", "no object", "another format"])
def test_a_damaged_record_is_made_anew_and_a_damaged_pointer_is_refused(
    output: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pointer = output.with_name("demo.json")
    (record,) = (output.parent / ".store/records").iterdir()
    change = {
        "edited": lambda text: text.replace('"a": 1', '"a": 2'),
        "no object": lambda _text: "[]",
        "another format": lambda text: text.replace("scion-manifest/2", "scion-manifest/9"),
    }[damage]
    for path in (pointer, record):
        path.write_text(change(path.read_text()))
    with pytest.raises(ScionError):
        store_of(output).open_pointer(pointer)
    assert make(output, write_text("first")).check() == []
    assert "made anew" in capsys.readouterr().err


def test_a_touched_artifact_is_read_again_and_stays(output: Path) -> None:
    os.utime(output.resolve() / "file.txt")
    assert make(output, refuse).check() == []


@pytest.mark.parametrize("error", [ScionError, KeyboardInterrupt, RuntimeError])
def test_a_build_that_stops_leaves_the_earlier_artifact_alone(
    output: Path, error: type[BaseException]
) -> None:
    def build(draft: Draft) -> None:
        (draft.folder / "half").mkdir()
        (draft.folder / "half/file").write_text("x")
        if error is ScionError:
            raise ScionError("x", where="x", expected="x", found="x", hint="x")
        raise error

    before, identities = snapshot(output.resolve()), identity(output.resolve())
    with pytest.raises(error):
        make(output, build, settings={"a": 2})
    assert (snapshot(output.resolve()), identity(output.resolve())) == (before, identities)
    assert half_made(output.parent) == []


def test_a_build_that_stops_at_first_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        make(tmp_path / "results/demo", refuse)
    assert [path.name for path in (tmp_path / "results").iterdir()] == [".store"]
    assert half_made(tmp_path / "results") == []


def test_what_a_stopped_build_kept_is_there_again_and_goes_with_the_artifact(
    tmp_path: Path,
) -> None:
    def stop(draft: Draft) -> None:
        draft.work.mkdir()
        (draft.work / "layer").write_text("kept")
        raise KeyboardInterrupt

    def go_on(draft: Draft) -> None:
        write_text((draft.work / "layer").read_text())(draft)

    output = tmp_path / "results/demo"
    with pytest.raises(KeyboardInterrupt):
        make(output, stop)
    make(output, go_on)
    assert (output / "file.txt").read_text() == "kept"
    assert half_made(output.parent) == []


def test_what_a_plan_took_for_granted_must_still_hold(tmp_path: Path) -> None:
    template, code = tmp_path / "template", provenance.code_digest("scion.stages.demo")
    template.write_text("1")
    planned = Expectation(code, (("template", digest_file(template)),))
    output = replace(Output.at(tmp_path / "demo"), plan=Expectation.read(planned.to_json()))
    request: dict[str, Any] = {"stage": "demo", "settings": {}, "environment": "sha256:e"}
    inputs = {"template": template}
    remake(output, inputs=inputs, build=write_text("x"), **request)
    template.write_text("2")
    with pytest.raises(ScionError, match="edited since the run was planned"):
        remake(output, inputs=inputs, build=refuse, **request)
    template.write_text("1")
    other = replace(output, plan=replace(planned, code="sha256:earlier"))
    with pytest.raises(ScionError, match="edited since the run was planned"):
        remake(other, inputs=inputs, build=refuse, **request)


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_source_that_is_edited_before_its_artifact_is_whole_makes_none(
    tmp_path: Path, keep_times: bool
) -> None:
    source = tmp_path / "source.txt"
    source.write_text("before")
    times = source.stat()

    def build(draft: Draft) -> None:
        draft.take(source, "taken.txt")
        if not (draft.folder / "taken.txt").samefile(source):
            pytest.skip("files are cloned here, so an edit reaches nothing")
        draft.hash_files()
        source.write_text("beyond")
        if keep_times:
            os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(ScionError, match="changed while the artifact was made"):
        make(tmp_path / "results/demo", build)
    assert not (tmp_path / "results/demo.json").exists()
    assert half_made(tmp_path / "results") == []


def test_a_record_under_another_recipe_s_name_is_not_taken_for_it(output: Path) -> None:
    make(output, write_text("second"), settings={"a": 2})
    first = make(output, refuse)
    second = make(output, refuse, settings={"a": 2})
    store = store_of(output)
    shutil.copy(store.record(second.recipe), store.record(first.recipe))
    assert make(output, write_text("first")).root == first.root


def test_entries_are_read_only_and_a_source_keeps_its_mode(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("mine")
    source.chmod(0o640)

    def build(draft: Draft) -> None:
        write_text("x")(draft)
        draft.take(source, "taken.txt")

    folder = make(tmp_path / "results/demo", build).folder
    assert (folder / "file.txt").stat().st_mode & 0o777 == 0o444
    assert folder.stat().st_mode & 0o777 == 0o555
    assert source.stat().st_mode & 0o777 == 0o640


def test_check_lists_what_is_missing_changed_and_extra(tmp_path: Path) -> None:
    def build(draft: Draft) -> None:
        (draft.folder / "sub").mkdir()
        for name in ("kept", "changed", "sub/missing"):
            (draft.folder / name).write_text(name)

    artifact = make(tmp_path / "demo", build)
    assert artifact.check() == []
    for path in (artifact.folder / "sub", artifact.folder / "changed"):
        path.chmod(0o755)
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
        roots.add(manifest_digests(changed)["root"])
    assert len(roots) == len(leaves) + 1
    assert {path[0] for path in leaves} == {
        *("format", "stage", "made_from", "settings", "code", "environment", "facts", "files"),
        *("recipe", "content"),
    }
    assert manifest_digests(dict(reversed(manifest.items())))["root"] == artifact.root


def test_the_tensor_table_says_where_each_tensor_lies(tmp_path: Path) -> None:
    def build(draft: Draft) -> None:
        write_safetensors(draft.folder / "model.safetensors", {"b": (2, 3), "a": (1,)})

    first = make(tmp_path / "first", build)
    second = make(
        tmp_path / "second",
        lambda draft: draft.link(first, "model.safetensors", "new"),
        settings={"a": 2},
    )
    assert second.tensors() == {
        name: {**row, "file": "new"} for name, row in first.tensors().items()
    }
    for row in first.tensors().values():
        begin, end = row["range"]
        path = first.folder / row["file"]
        assert digest_file(path, offset=begin, size=end - begin) == row["sha256"]
    assert first.tensors()["b"]["shape"] == [2, 3]
