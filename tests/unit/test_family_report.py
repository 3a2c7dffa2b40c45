"""What is said of a family: in its page, in each card, in the summary, in the picture."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import measured
from conversion import ENVIRONMENT, Conversion
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.making import Output, remake
from scion.artifacts.release_check import check_release
from scion.common.files import write_json
from scion.common.text import change
from scion.engines.config import PICO_LAUNCH
from scion.engines.vllm.bench import Timing
from scion.evaluation.family.config import RECORD, FamilyMember
from scion.evaluation.family.record import Member, member_record
from scion.evaluation.serving.acceptance import paired_acceptance
from scion.evaluation.serving.speed import Wave
from scion.report.family import acceptance_beside, family_brief, family_lines, summary_table
from scion.report.pictures.family import family_picture
from scion.report.summary import family_summary
from scion.stages.render_family import render_family
from sealed import sealed

TEMPLATE = Path(__file__).parents[2] / "workflow/templates/family.md.jinja"


def compared(
    folder: Path, *releases: Artifact, weights: str = "sha256:aa", heads: bool = False
) -> Artifact:
    """The artifact compare_family of some releases."""

    def build(draft: Draft) -> None:
        write_json(draft.folder / RECORD.name, measured.family(weights, heads=heads))

    return remake(
        Output.at(folder / "compare_family"),
        stage="compare_family",
        inputs={f"release-{place}/graft_mtp": each for place, each in enumerate(releases)},
        settings={},
        environment=ENVIRONMENT,
        build=build,
    )


def test_the_table_has_a_row_a_release_and_ratios_with_intervals() -> None:
    record = measured.family()
    lines = summary_table(record, own="release-1").splitlines()
    assert len(lines) == 2 + len(record["releases"])
    baseline, own, other = (line.split(" | ") for line in lines[2:])
    assert baseline[0] == "| owner/Release-0"
    assert baseline[1:3] == ["NVFP4 compressed-tensors", "no MTP"]
    assert "1.00×" in baseline
    assert own[0] == "| **owner/Release-1**"
    longest = [row for row in record["releases"][1]["speed"] if row["tokens"] == 200]
    ratio = next(row for row in longest if row["parallel"] == 1)["ratio_to_baseline"]
    shown = f"{ratio['value']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"
    assert shown in own
    assert other[0] == "| owner/Release-2"


def test_the_picture_shows_every_release_in_words_too() -> None:
    record = measured.family()
    picture = family_picture(record)
    for release in record["releases"]:
        assert release["release"] in picture.alt
        assert release["release"] in picture.svg
    assert picture.svg.count("<svg") == 1
    assert family_picture(record).svg == picture.svg


def test_lines_of_the_terminal() -> None:
    record = measured.family()
    first, *rows = family_lines(record)
    assert first.startswith("family:      The tiny family, on 2 cores of ")
    assert [row.split()[0] for row in rows] == [each["release"] for each in record["releases"]]
    assert "the baseline" in rows[0]
    assert family_brief(record).startswith("3 releases; release-")
    assert family_brief(measured.family(releases=1)) == "1 release"


def test_the_page_has_picture_table_and_decodes(conversion: Conversion, tmp_path: Path) -> None:
    made = render_family(
        compared=compared(tmp_path, conversion.graft_mtp),
        template=TEMPLATE,
        output=Output.at(tmp_path / "render_family"),
        environment=ENVIRONMENT,
    )
    page = (made.folder / "README.md").read_text()
    assert page.startswith("# The tiny family\n")
    assert "](family.svg)" in page
    assert summary_table(measured.family()) in page
    assert page.count("| owner/Release-2 |") == 1 + 6
    assert {"README.md", "family.svg"} <= made.files.keys()


def test_a_release_is_paired_with_the_baseline_if_both_draft(
    conversion: Conversion, tmp_path: Path
) -> None:
    records = measured.results()
    run = records["measure_serving"]["runs"][2]
    own = copy.deepcopy(records)
    for reply in own["measure_serving"]["runs"][2]["replies"]:
        reply["drafts"] += 1
    timed = [(Wave(repeat, 8, (0,)), Timing(100.0 + repeat, 20.0, 10.0)) for repeat in range(6)]

    def member(name: str, content: dict[str, Any], drafts: int) -> Member:
        made = measured.artifacts(content, release=conversion.graft_mtp, folder=tmp_path / name)
        launch = PICO_LAUNCH.model_copy(update={"speculative_tokens": drafts})
        about = FamilyMember(name=name, repository=f"owner/{name}", launch=launch)
        parts = (
            made[stage] for stage in ("measure_serving", "run_agent_tasks", "evaluate_quality")
        )
        return Member(about, conversion.graft_mtp, *parts)

    baseline, healed = member("grafted", records, 3), member("healed", own, 3)
    paired = member_record(healed, timed, (baseline, timed))
    assert paired["acceptance_beside_baseline"] == paired_acceptance(
        own["measure_serving"]["runs"][2]["replies"], run["replies"]
    )
    assert paired["acceptance"] == run["acceptance"][-1]
    assert member_record(baseline, timed, None)["acceptance_beside_baseline"] is None
    plain = member_record(member("plain", records, 0), timed, (baseline, timed))
    assert plain["acceptance"] is plain["acceptance_beside_baseline"] is None


def test_two_heads_stand_beside_each_other_prompt_by_prompt(tmp_path: Path) -> None:
    record = measured.family(heads=True)
    rows = acceptance_beside(record["releases"]).splitlines()[2:]
    # Four sets with thinking and without, and all, of each release but the baseline.
    assert len(rows) == 2 * 9
    paired = record["releases"][1]["acceptance_beside_baseline"][-1]
    before, after = paired["other"], paired["one"]
    assert after["mean_length"] == record["releases"][1]["acceptance"]["mean_length"]["value"]
    shown = change(paired["difference"]["mean_length"], 2)
    assert rows[8].startswith(
        f"| owner/Release-1 | all | {before['mean_length']:.2f} → {after['mean_length']:.2f}: "
        f"{shown} | 16 | {100 * before['per_position'][0]:.1f} → "
    )
    assert f", {shown} beside the baseline;" in family_lines(record)[2]
    made = render_family(
        compared=compared(tmp_path, heads=True),
        template=TEMPLATE,
        output=Output.at(tmp_path / "render_family"),
        environment=ENVIRONMENT,
    )
    page = (made.folder / "README.md").read_text()
    assert f"{rows[8]}\n" in page


def test_without_two_heads_nothing_is_paired() -> None:
    record = measured.family()
    assert acceptance_beside(record["releases"]) == ""
    for release in record["releases"]:
        del release["acceptance_beside_baseline"]
    assert acceptance_beside(record["releases"]) == "", "a record of old"
    assert "beside the baseline;" not in "".join(family_lines(record))


def test_a_card_quotes_its_family_and_the_release_can_be_checked(
    conversion: Conversion, tmp_path: Path
) -> None:
    weights = conversion.graft_mtp.content
    family = compared(tmp_path / "family", conversion.graft_mtp, weights=weights, heads=True)
    release = sealed(conversion, tmp_path, measured.results(), beside={"compare_family": family})
    card = (release / "README.md").read_text()
    assert "Accepted drafts beside the baseline, by prompts" in card
    assert "### The tiny family" in card
    assert "| **owner/Release-1** |" in card
    assert "pictures/family.svg" in card
    assert (release / "pictures/family.svg").is_file()
    assert json.loads((release / "provenance/results/family.json").read_bytes())
    _, problems = check_release(FolderTree(release))
    assert problems == []
    lines = family_summary([tmp_path])
    assert lines[0].startswith(f"release:     {release}, root sha256:")
    assert lines[1] == family_lines(measured.family())[0]


def test_a_comparison_of_other_releases_is_found(conversion: Conversion, tmp_path: Path) -> None:
    weights = conversion.graft_mtp.content
    family = compared(tmp_path / "family", conversion.quantize_nvfp4, weights=weights)
    release = sealed(conversion, tmp_path, measured.results(), beside={"compare_family": family})
    _, problems = check_release(FolderTree(release))
    assert problems == ["provenance/compare_family.json: compares other releases than this"]


@pytest.mark.parametrize("releases", [1, 2, 5])
def test_any_number_of_releases_can_be_shown(releases: int) -> None:
    record = measured.family(releases=releases)
    assert len(summary_table(record).splitlines()) == 2 + releases
    assert family_picture(record).svg
