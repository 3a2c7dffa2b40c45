"""`scion explain`: where something of a sealed release came from."""

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conversion import Conversion
from scion.artifacts.file_tree import FolderTree
from scion.audit.audit import audit
from scion.audit.explanation import dot, explain, svg
from scion.cli.main import main
from scion.common.errors import ScionError
from scion.report.card.provenance_page import PROVENANCE_PAGE
from scion.report.pictures.chain import chain_picture
from tampering import reroot

QUANTIZED = "model.language_model.layers.0.mlp.up_proj.weight"


def test_a_quantized_tensor_is_followed_to_the_source(
    sealed_release: Path, conversion: Conversion
) -> None:
    (found,) = explain(FolderTree(sealed_release), QUANTIZED)
    assert found.made_by == "quantize_nvfp4"
    assert [step.stage for step in found.steps] == [
        *("quantize_nvfp4", "extract_text", "fix_keys", "fetch_source")
    ]
    source = conversion.fetch_source.tensors()
    names = [line.removeprefix("there it is ") for line in found.lines if "there it is" in line]
    # The source's key has a broken prefix, and the digest is that of its bytes.
    assert names
    assert f"origin quantized, of sha256 {source[names[0]]['sha256']}" in found.lines


def test_a_grafted_tensor_is_followed_to_the_donor(sealed_release: Path) -> None:
    (found,) = explain(FolderTree(sealed_release), "mtp.norm.weight")
    assert [step.stage for step in found.steps] == ["fetch_donor"]
    assert any("pico-base" in line for line in found.lines)


def test_a_file_and_a_number_are_of_their_stages(sealed_release: Path) -> None:
    tree = FolderTree(sealed_release)
    (card,) = explain(tree, "README.md")
    assert card.made_by == "render_card"
    assert len(card.steps) > 8
    shares = re.findall(r"(\d+\.\d)\s?%", (sealed_release / "README.md").read_text())
    assert shares
    found = explain(tree, f"{shares[0]} %")
    assert found
    assert all("provenance/results/" in each.lines[0] for each in found if each.steps)


def test_the_chain_is_drawn(sealed_release: Path) -> None:
    (found,) = explain(FolderTree(sealed_release), QUANTIZED)
    graph = dot(found)
    assert '"fetch_source" -> "fix_keys";' in graph
    assert f'"quantize_nvfp4" -> "subject {QUANTIZED}";' in graph


def test_what_is_not_there_is_refused(sealed_release: Path, release: Path) -> None:
    with pytest.raises(ScionError, match="nothing of that name"):
        explain(FolderTree(sealed_release), "model.none")
    with pytest.raises(ScionError, match="no manifest"):
        explain(FolderTree(release), "mtp.norm.weight")


def test_the_command_prints_text_json_and_dot(
    sealed_release: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["scion", "explain", str(sealed_release), *options])
        assert main() == 0
        return capsys.readouterr().out

    text = run(QUANTIZED)
    assert text.startswith(f"{QUANTIZED}\n")
    assert "settings" in text
    (record,) = json.loads(run(QUANTIZED, "--json"))
    assert record["made_by"] == "quantize_nvfp4"
    assert run(QUANTIZED, "--dot").startswith("digraph")


def test_the_chain_is_a_picture(sealed_release: Path) -> None:
    (found,) = explain(FolderTree(sealed_release), QUANTIZED)
    drawn = ElementTree.fromstring(svg(found))
    texts = {text.strip() for each in drawn.iter() for text in (each.text or "",) if text.strip()}
    assert {"quantize_nvfp4", "extract_text", "fix_keys", "fetch_source"} <= texts
    assert f"Where {QUANTIZED} came from" in texts


def test_stages_that_name_each_other_are_no_chain() -> None:
    with pytest.raises(ScionError, match="the chain can't be drawn"):
        chain_picture("chain", "a ring", {"a": ["b"], "b": ["a"]}, {})
    with pytest.raises(ScionError, match="the chain can't be drawn"):
        chain_picture("chain", "too many", {str(number): [] for number in range(200)}, {})


def test_a_card_links_to_the_stages_behind_it(sealed_release: Path) -> None:
    assert f"]({PROVENANCE_PAGE})" in (sealed_release / "README.md").read_text()
    page = (sealed_release / PROVENANCE_PAGE).read_text()
    for path in (sealed_release / "provenance").glob("*.json"):
        if path.stem != "render_card":
            manifest = json.loads(path.read_text())
            assert f"## {path.stem}\n\n- content `{manifest['content']}`" in page
    linked = re.findall(r"\]\(([^)#]+)\)", page)
    assert "provenance/results/serving.json" in linked
    assert all((sealed_release / name).is_file() for name in linked)


def test_a_page_that_tells_something_else_is_refuted(sealed_release: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    page = folder / PROVENANCE_PAGE
    page.write_text(re.sub(r'"samples": \d+', '"samples": 999', page.read_text(), count=1))
    reroot(folder)
    (told,) = [v for v in audit(str(folder)).verdicts if v.part == "attestations"]
    faults = [each for each in told.faults if each.subject.startswith(f"{PROVENANCE_PAGE}: line ")]
    assert ["999" in each.found for each in faults] == [True]


@pytest.mark.parametrize("row", [None, "text", {}, 3, {"origin": 4}])
def test_rows_of_another_form_end_in_no_traceback(
    row: object, sealed_release: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    for name in ("tensors.json", "provenance/tensors/fetch_source.json"):
        table = json.loads((folder / name).read_text())
        table[QUANTIZED] = row
        (folder / name).write_text(json.dumps(table))
    if isinstance(row, dict):
        (found,) = explain(FolderTree(folder), QUANTIZED)
        assert found.subject == QUANTIZED
        # Rows that have no digest either are not the same.
        assert not any("there it is" in line for line in found.lines)
    else:
        with pytest.raises(ScionError, match="nothing of that name"):
            explain(FolderTree(folder), QUANTIZED)


def test_a_number_of_too_many_digits_is_no_match(sealed_release: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    (folder / "provenance/results/z.json").write_text(
        f'{{"huge": {10**400}, "small": 0.123454321}}'
    )
    (found,) = explain(FolderTree(folder), "0.123454321")
    assert found.lines[0].endswith("z.json")


def test_boxes_of_a_long_row_stand_below_each_other() -> None:
    names = [f"measure_serving_{number}" for number in range(7)]
    made_from = {"graft_mtp": [], **{name: ["graft_mtp"] for name in names}, "card": names}
    drawn = chain_picture("chain", "title", made_from, {}).svg
    root = ElementTree.fromstring(drawn)
    rows = dict[str, set[str]]()
    for each in root.iter():
        if (each.text or "").strip() in names:
            place = re.findall(r"[-\d.]+", each.get("transform", "")) or [
                each.get("x"),
                each.get("y"),
            ]
            rows.setdefault(str(place[1]), set()).add(str(each.text))
    assert sum(map(len, rows.values())) == len(names)
    assert all(len(row) <= 5 for row in rows.values())
