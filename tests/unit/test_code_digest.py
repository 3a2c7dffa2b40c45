import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scion.artifacts import code_digest as provenance
from scion.artifacts import code_source
from scion.artifacts.code_digest import code_digest, module_files
from scion.artifacts.code_meaning import meaningful, written
from scion.common.errors import ScionError

STAGES = sorted(
    path.stem
    for path in (provenance._PACKAGE / "stages").glob("*.py")
    if path.stem not in ("__init__", "common_options", "served")
)
SERVING = {
    "compare_family",
    "compare_recipes",
    "evaluate_bfcl",
    "evaluate_bfcl_source",
    "evaluate_ifeval",
    "evaluate_ifeval_source",
    "evaluate_images",
    "evaluate_quality",
    "measure_serving",
    "run_agent_tasks",
    "run_agent_tasks_source",
    "sample_replies",
}
PLUGIN = "vllm_plugin/scion_vllm_plugin"
TABLE = {"table/__init__.py", "table/rows/first.py"}


def names(module: str) -> set[str]:
    return {str(path.relative_to(provenance._PACKAGE)) for path in module_files(module)}


def test_imports_are_followed_to_the_end() -> None:
    found = names("scion.stages.graft_mtp")
    # Imported by the stage, by shards.py below it, and by safetensors_file.py below that.
    assert {
        "stages/graft_mtp.py",
        "checkpoint/shards.py",
        "checkpoint/safetensors_file.py",
        "common/digest.py",
    } <= found
    assert "stages/quantize_nvfp4.py" not in found
    assert not any(name.endswith("__init__.py") for name in found)


def test_a_module_and_a_name_in_it_are_both_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "scion"
    (package / "engines").mkdir(parents=True)
    (package / "a.py").write_text("import os\nfrom scion import b\nimport scion.engines.c\n")
    (package / "b.py").write_text("def late():\n    from scion.d import thing\n")
    (package / "engines/c.py").write_text("from scion.a import *\n")
    (package / "d.py").write_text("thing = 1\n")
    (package / "unused.py").write_text("")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    assert names("scion.a") == {"a.py", "b.py", "engines/c.py", "d.py"}
    assert names("scion.d") == {"d.py"}
    assert module_files("scion.nothing") == []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose `shapes` has a face, and whose `table` has code in its `__init__.py`."""
    package = tmp_path / "scion"
    (package / "shapes").mkdir(parents=True)
    (package / "table/rows").mkdir(parents=True)
    (package / "shapes/__init__.py").write_text(
        '"""Shapes."""\n\n'
        "from scion.shapes.circle import Circle as Round\n"
        "from scion.shapes.square import Square\n\n"
        '__all__ = ["Round", "Square"]\n'
    )
    (package / "shapes/circle.py").write_text("from scion.numbers import PI\n")
    (package / "shapes/square.py").write_text("SIDES = 4\n")
    (package / "numbers.py").write_text("PI = 3\n")
    (package / "table/__init__.py").write_text(
        "from scion.table.rows import first\nROWS = [first]\n"
    )
    (package / "table/rows/__init__.py").write_text('"""Rows."""\n')
    (package / "table/rows/first.py").write_text("NAME = 1\n")
    (package / "table/reader.py").write_text("")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    return package


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("from scion.shapes import Square", {"shapes/square.py"}),
        ("from scion.shapes import Round", {"shapes/circle.py", "numbers.py"}),
        ("from scion.shapes import square", {"shapes/square.py"}),
        (
            "from scion.shapes import *",
            {"shapes/circle.py", "shapes/square.py", "numbers.py"},
        ),
        ("import scion.shapes", {"shapes/circle.py", "shapes/square.py", "numbers.py"}),
        ("from scion import shapes", {"shapes/circle.py", "shapes/square.py", "numbers.py"}),
        # What lies below a package with code runs that code.
        ("from scion.table.reader import x", {*TABLE, "table/reader.py"}),
        ("from scion.table import ROWS", TABLE),
        ("from scion.table.rows import first", TABLE),
    ],
)
def test_what_a_packages_face_hands_on_is_followed(
    package: Path, statement: str, files: set[str]
) -> None:
    (package / "user.py").write_text(statement + "\n")
    assert names("scion.user") == files | {"user.py"}


def test_a_face_that_hands_on_another_thing_changes_the_digest_and_its_text_does_not(
    package: Path,
) -> None:
    (package / "user.py").write_text("from scion.shapes import Square\n")
    before = code_digest("scion.user")
    face = package / "shapes/__init__.py"
    face.write_text(face.read_text().replace("Shapes.", "Plain shapes."))
    assert code_digest("scion.user") == before
    face.write_text(face.read_text().replace("scion.shapes.square", "scion.shapes.circle"))
    assert code_digest("scion.user") != before


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        ("stages/fix_keys.py", True),
        ("common/files.py", True),
        ("stages/graft_mtp.py", False),
        ("checkpoint/hub/client.py", False),
    ],
)
def test_editing_a_module_changes_the_digest_of_what_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, changes: bool
) -> None:
    before = code_digest("scion.stages.fix_keys")
    package = tmp_path / "scion"
    shutil.copytree(provenance._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    # The digest says nothing of where the package lies.
    assert code_digest("scion.stages.fix_keys") == before
    with (package / module).open("a") as file:
        file.write("\nEDITED = True\n")
    assert (code_digest("scion.stages.fix_keys") != before) is changes


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that holds the package and the plugin, in use in their place."""
    home = provenance._PACKAGE.parent
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("scion", "vllm_plugin"):
        shutil.copytree(home / name, tmp_path / name, ignore=ignored)
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path / "scion")
    return tmp_path


def digests() -> dict[str, str]:
    return {stage: code_digest(f"scion.stages.{stage}") for stage in STAGES}


def changed(path: Path, before: str, after: str) -> set[str]:
    """The stages whose digest another text in a file changes."""
    old = digests()
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    new = digests()
    return {stage for stage in STAGES if old[stage] != new[stage]}


def test_a_comment_changes_no_stage(copied: Path) -> None:
    line = "class ScionError(Exception):\n"
    errors = copied / "scion/common/errors.py"
    assert changed(errors, line, f"# Told.\n{line}") == set()
    # Each of them runs that file, so it is not for want of looking.
    assert changed(errors, line, f"TOLD = True\n{line}") == set(STAGES)


def test_a_constant_of_the_packer_changes_what_packs(copied: Path) -> None:
    stages = changed(copied / "scion/formats/packing_kernels.py", "(0.25, 0.75,", "(0.26, 0.75,")
    assert "quantize_nvfp4" in stages
    assert "fix_keys" not in stages


@pytest.mark.parametrize(
    ("file", "before", "after", "stages"),
    [
        ("kernel.py", "BLOCK = 16\n", "BLOCK = 32\n", SERVING),
        ("platform.py", '"fork"', '"spawn"', SERVING),
        ("__init__.py", "    use_one_arithmetic()\n", "", SERVING),
        ("kernel.py", "BLOCK = 16\n", "BLOCK: int = 16  # values\n", set()),
    ],
)
def test_the_plugin_is_code_of_the_stages_that_serve(
    copied: Path, file: str, before: str, after: str, stages: set[str]
) -> None:
    assert changed(copied / PLUGIN / file, before, after) == stages


def test_the_plugin_that_counts_is_the_one_that_is_installed() -> None:
    folder = provenance._PACKAGE.parent / PLUGIN
    project = (provenance._PACKAGE.parents[1] / "envs/serve-cpu/pyproject.toml").read_text()
    assert f'path = "../../workflow/{folder.parent.name}", editable = true' in project
    assert set(folder.glob("*.py")) <= set(module_files("scion.stages.measure_serving"))


def test_a_declared_folder_counts_whole_and_must_be_there(package: Path) -> None:
    folder = package.parent / "plugin/inner"
    folder.mkdir(parents=True)
    (package / "starter.py").write_text('ALSO_RUNS: tuple[str, ...] = ("plugin",)\n')
    (package / "user.py").write_text("from scion import starter\n")
    (package / "other.py").write_text('def f():\n    ALSO_RUNS = ("plugin",)\n')
    with pytest.raises(ScionError, match="plugin"):
        module_files("scion.user")
    (folder / "code.py").write_text("X = 1\n")
    assert module_files("scion.user")[0] == folder / "code.py"
    before = code_digest("scion.user"), code_digest("scion.other")
    (folder / "code.py").write_text("X = 2\n")
    assert code_digest("scion.user") != before[0]
    assert code_digest("scion.other") == before[1]


@pytest.mark.parametrize(
    ("stage", "programs"),
    [
        ("evaluate_bfcl", {"engines/fork_server.py", "evaluation/harness/bfcl_driver.py"}),
        ("evaluate_ifeval", {"engines/fork_server.py", "evaluation/harness/ifeval_driver.py"}),
        ("measure_serving", {"engines/fork_server.py", "engines/vllm/bench_driver.py"}),
        ("lint_source", {"lint/chat_render.py"}),
        ("verify_release", {"lint/chat_render.py"}),
        *((stage, {"engines/fork_server.py"}) for stage in sorted(SERVING)),
    ],
)
def test_a_program_is_code_of_the_stage_that_starts_it(stage: str, programs: set[str]) -> None:
    files = module_files(f"scion.stages.{stage}")
    assert {provenance._PACKAGE / name for name in programs} <= set(files)


def test_each_program_of_the_package_is_code_of_a_stage() -> None:
    programs = {
        path
        for path in provenance._PACKAGE.rglob("*.py")
        if path.relative_to(provenance._PACKAGE).parts[0] not in ("cli", "stages")
        and '__name__ == "__main__"' in path.read_text()
    }
    run = {path for stage in STAGES for path in module_files(f"scion.stages.{stage}")}
    assert len(programs) >= 5
    # Which GPU a stage computes on makes no other bytes; it stands before the stage's command.
    assert programs - run == {provenance._PACKAGE / "engines/vllm/on_gpus.py"}


def test_no_stage_reads_a_data_file_that_lies_in_the_package() -> None:
    # agent_tasks.yaml is an input of each rule that reads it. Another one must be, too.
    data = {
        path.name
        for path in provenance._PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
    }
    assert data == {"agent_tasks.yaml"}


# What is kept of sources


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of this test's own; nothing is known of any source."""
    path = tmp_path / "kept/sources.json"
    monkeypatch.setattr(code_source, "_KEPT", path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code_source._known.cache_clear()
    yield path
    code_source._known.cache_clear()


def later() -> str:
    """The digest of a stage's code as the next process finds it."""
    code_source._known.cache_clear()
    return code_digest("scion.stages.fix_keys")


def test_what_was_parsed_is_not_parsed_again_and_means_the_same(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_digest("scion.stages.fix_keys")
    files = module_files("scion.stages.fix_keys")
    read = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert read <= json.loads(kept.read_text())["sources"].keys()
    monkeypatch.setattr(code_source, "_parse", None)
    assert later() == before


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"reader": 1}',
        '{"reader": "READER", "sources": {"SOURCE": []}}',
        '{"reader": "another", "sources": {"SOURCE": ["0", [], [], false]}}',
    ],
    ids=["empty", "a list", "no sources", "no row", "of another reader"],
)
def test_what_can_not_be_read_or_is_of_other_readers_is_parsed_again(
    kept: Path, content: str
) -> None:
    before = code_digest("scion.stages.fix_keys")
    (source,) = [path for path in module_files("scion.stages.fix_keys") if path.stem == "fix_keys"]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    kept.write_text(content.replace("READER", code_source._reader()).replace("SOURCE", digest))
    assert later() == before


def test_it_is_kept_where_byte_code_is(tmp_path: Path) -> None:
    show = "from scion.artifacts import code_source; print(code_source._KEPT)"
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout).is_relative_to(tmp_path)
    assert not code_source._KEPT.is_relative_to(tmp_path)


def test_without_byte_code_nothing_is_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code_digest("scion.stages.fix_keys")
    assert not kept.exists()


def test_an_edit_is_noticed_by_a_process_that_knew_the_source(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "scion"
    package.mkdir()
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    (package / "user.py").write_text("x = 1\n")
    before = code_digest("scion.user")
    (package / "user.py").write_text("x = 2\n")
    assert code_digest("scion.user") != before
    (package / "user.py").write_text("x = 1  # as before\n")
    assert code_digest("scion.user") == before


# What a text means

SOURCE = '''"""A module."""
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scion.numbers import PI

SIDES: int = 4  # of a square


@dataclass
class Shape:
    """A shape."""

    name: str
    sides: int = SIDES
    """Its sides."""

    def area(self, side: float, *rest: float, scale: float = 1.0) -> float:
        """The area."""
        label = "area"
        total: float = side * side
        print(f"{label}: {total:.{SIDES}f}")
        return total * scale


def nothing() -> None:
    """Do nothing."""
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""A module."""', '"""Another module."""'),
        ('"""A module."""\n', ""),
        ('"""A shape."""', "'A form.'"),
        ('"""The area."""\n', '"""The area, in bold."""\n'),
        ('    """Its sides."""\n', ""),
        ('"""Do nothing."""', "pass"),
        ("  # of a square", ""),
        ("\n\n\n", "\n# A line.\n\n"),
        ("SIDES: int = 4", "SIDES = 4"),
        ("SIDES: int = 4", "COLOR: str\nSIDES: float = 0x4"),
        ("side: float,", "side: int,"),
        ("side: float,", "side,"),
        ("*rest: float", "*rest"),
        ("scale: float = 1.0", "scale=1.0"),
        (") -> float:", "):"),
        (") -> float:", ") -> (\n        'float'\n    ):"),
        ("total: float = side", "total = side"),
        ("total * scale", "(total * scale)"),
        ('"area"', "'ar' 'ea'"),
        ("    from scion.numbers import PI", "    from scion.shapes import Square"),
        ("if TYPE_CHECKING:\n    from scion.numbers import PI\n", ""),
        ("if TYPE_CHECKING:", "if typing.TYPE_CHECKING:"),
    ],
)
def test_what_means_the_same_has_the_same_digest(package: Path, before: str, after: str) -> None:
    assert digest_of(package, SOURCE) == digest_of(package, SOURCE.replace(before, after))
    assert SOURCE.replace(before, after) != SOURCE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("scale: float = 1.0", "scale: float = 2.0"),
        ("SIDES: int = 4", "SIDES: int = 5"),
        ("SIDES: int = 4", "SIDES: int = 4.0"),
        ("SIDES: int = 4", "SIDES: int = True"),
        ("SIDES: int = 4", "SIDES: int"),
        ('"area"', '"extent"'),
        ('"area"', 'b"area"'),
        ("{label}: ", "{label}; "),
        ("{total:.", "{total!r:."),
        ("    def area", "    @functools.cache\n    def area"),
        ("@dataclass\n", "@dataclass(frozen=True)\n"),
        ("    name: str\n", "    name: bytes\n"),
        ("    name: str\n", ""),
        ("    sides: int = SIDES", "    sides = SIDES"),
        ("*rest", "rest"),
        ("side * side", "side + side"),
        ("total * scale", "scale * total"),
        (
            "import functools\nfrom dataclasses import dataclass\n",
            "from dataclasses import dataclass\nimport functools\n",
        ),
        ("def nothing", "async def nothing"),
        ('    """Do nothing."""', '    return "Do nothing."'),
        ("import PI\n", "import PI\nelse:\n    PI = 3\n"),
        ("if TYPE_CHECKING:", "if functools:"),
    ],
)
def test_what_means_another_thing_has_another_digest(
    package: Path, before: str, after: str
) -> None:
    assert digest_of(package, SOURCE) != digest_of(package, SOURCE.replace(before, after))
    ast.parse(SOURCE.replace(before, after))


def digest_of(package: Path, text: str) -> str:
    (package / "user.py").write_text(text)
    return code_digest("scion.user")


def test_what_is_imported_for_its_types_alone_is_not_followed(package: Path) -> None:
    (package / "user.py").write_text(
        "if TYPE_CHECKING:\n    from scion.shapes import Square\n"
        "elif other:\n    import scion.table.reader\n"
        "else:\n    from scion.shapes import Round\n"
    )
    assert names("scion.user") == {
        *TABLE,
        *("user.py", "shapes/circle.py", "numbers.py", "table/reader.py"),
    }


def test_statements_in_every_kind_of_block_are_looked_at() -> None:
    plain = """
async def f(a, /, b=1, **c):
    try:
        pass
    except* E as e:
        pass
    finally:
        x = 1
    match a:
        case [1, *_] | {"k": None}:
            pass
    async with a as b:
        class C:
            def g(): pass
    for i in a:
        x = 2
"""
    wordy = """
async def f(a: A, /, b: B = 1, **c: C) -> D:
    try:
        "a"
    except* E as e:
        "b"
    finally:
        x: int = 1
        "c"
    match a:
        case [1, *_] | {"k": None}:
            "d"
    async with a as b:
        class C:
            def g():
                y: int
    for i in a:
        x: int = 2
    else:
        "e"
"""
    assert written(meaningful(plain.encode())) == written(meaningful(wordy.encode()))


def test_the_text_of_a_tree_is_the_same_in_each_python() -> None:
    source = b"""
@d
class A(B, k=1):
    x: int
    def f(self, *, a=None): return f"{{a}}b{a!r:>{x}.2}" "c" f"{a = }" f"\\N{BULLET}"
"""
    assert written(meaningful(source)) == (
        "Module(body=[ClassDef(name='A',bases=[Name(id='B',)]"
        "keywords=[keyword(arg='k',value=Constant(value=1,))]"
        "body=[AnnAssign(target=Name(id='x',)annotation=Name(id='int',)simple=1,)"
        "FunctionDef(name='f',args=arguments(args=[arg(arg='self',)]kwonlyargs=[arg(arg='a',)]"
        "kw_defaults=[Constant()])"
        "body=[Return(value=JoinedStr(values=[Constant(value='{a}b',)"
        "FormattedValue(value=Name(id='a',)conversion=114,"
        "format_spec=JoinedStr(values=[Constant(value='>',)"
        "FormattedValue(value=Name(id='x',)conversion=-1,)Constant(value='.2',)]))"
        "Constant(value='ca = ',)FormattedValue(value=Name(id='a',)conversion=114,)"
        "Constant(value='\\u2022',)]))])]"
        "decorator_list=[Name(id='d',)])])"
    )
