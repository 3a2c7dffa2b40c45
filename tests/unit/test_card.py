import re
from pathlib import Path

import pytest

import measured
from conversion import Conversion
from scion.artifacts.artifact import Artifact
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.making import Output
from scion.artifacts.release_check import check_release
from scion.common.errors import ScionError
from scion.common.text import number, ratio, share, table
from scion.engines.config import PICO_LAUNCH
from scion.report.config import Card
from scion.report.summary import summary
from scion.stages.render_card import render
from scion.stages.seal_release import seal_release
from sealed import TEMPLATE, rendered


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("card")


@pytest.fixture(scope="module")
def made(conversion: Conversion, folder: Path) -> tuple[Artifact, dict[str, Artifact]]:
    return rendered(conversion, folder, measured.results())


@pytest.fixture(scope="module")
def text(made: tuple[Artifact, dict[str, Artifact]]) -> str:
    return (made[0].folder / "README.md").read_text()


def test_speeds_stand_with_interval_ratio_and_repeats(text: str) -> None:
    for run in measured.serving()["runs"]:
        for speed in run["speed"]:
            row = next(
                line
                for line in text.splitlines()
                if line.startswith(f"| {speed['tokens']} tokens |")
                and ("single" in line) == (speed["parallel"] == 1)
            )
            assert number(speed["tokens_per_second"]) in row
            assert row.endswith("| 6 |")
            if speed["ratio_to_baseline"]:
                assert ratio(speed["ratio_to_baseline"]) in row


def test_acceptance_stands_overall_and_for_each_set_and_mode(text: str) -> None:
    for run in measured.serving()["runs"]:
        for row in run["acceptance"] or ():
            cells = " | ".join(share(estimate) for estimate in row["per_position"])
            assert f"| {cells} |" in text
    assert "| n=3 | tools | no thinking |" in text
    assert "Greedy text with n=3 equals that without MTP in 32 of 32 replies." in text


def test_scores_stand_with_their_interval_and_count(text: str) -> None:
    tasks = measured.agent_tasks()
    assert "### Agent tasks: 5 of 5" in text
    for task in tasks["tasks"]:
        assert f"| {task['passed']} of 22 | {share(task['rate'])} |" in text
    assert "| **107 of 110** | 97.3 % (92.3–99.1) |" in text
    assert f"| prompt strict | {share(measured.ifeval()['scores']['prompt_strict'])} | 24 |" in text
    assert "| simple python | 3 of 4 | 75.0 % (30.1–95.4) |" in text
    assert "4 do not" in text


def test_what_lint_says_stands_once_for_each_rule(text: str) -> None:
    (line,) = [line for line in text.splitlines() if line.startswith("- Lint: ")]
    assert line.count("`C806`") == line.count("`T609`") == 1


def test_quality_stands_for_base_reference_and_release(text: str) -> None:
    assert "| bf16 reference | this release | base model | n (tokens) |" in text
    for model in measured.quality()["models"]:
        for part in (model["parts"] or {}).values():
            assert number(part["perplexity"], 4) in text
    assert "The source as it was fetched has the same tensors" in text


def test_each_set_of_prompts_is_named_with_its_digest(text: str) -> None:
    texts = ("heldout.jsonl", "heldout_texts.jsonl", "ifeval.jsonl")
    for name in ("prompts.jsonl", "agent_tasks.yaml", *texts):
        assert re.search(rf"`{name}`[^\n]{{0,20}}sha256 `[0-9a-f]{{64}}`", text), name


def test_every_picture_that_is_linked_is_there_and_is_told_in_words(
    made: tuple[Artifact, dict[str, Artifact]], text: str
) -> None:
    links = dict(re.findall(r"^!\[(.*)\]\((.*)\)$", text, re.MULTILINE))
    assert sorted(links.values()) == sorted(name for name in made[0].files if "svg" in name)
    assert len(links) == 4
    for words in links:
        assert re.search(r"\d", words)


def test_the_calibration_set_stands_with_its_samples_and_tokens(
    conversion: Conversion, text: str
) -> None:
    counted = conversion.quantize_nvfp4.facts["calibration"]
    expected = f"{counted['samples']} samples ({counted['tokens']} tokens) of `"
    assert f"- Calibration: {expected}" in text
    assert "calibration.jsonl`, at most 8192 tokens each. Chats went through" in text


def test_all_calibration_sets_stand_with_what_was_cut(tmp_path: Path) -> None:
    lines = TEMPLATE.read_text().splitlines(keepends=True)
    template = tmp_path / "card.md.jinja"
    template.write_text("".join(line for line in lines if "- Calibration:" in line))
    whole = {"dataset": "a", "subset": None, "samples": 2, "tokens": 90, "max_tokens": 100}
    cut = {"dataset": "b", "subset": "LLM", "samples": 7, "tokens": 800, "max_tokens": 400}
    sets = [
        {**whole, "cut_samples": 0, "cut_to_context": 0},
        {**cut, "cut_samples": 3, "cut_to_context": 0},
        {**cut, "cut_samples": 3, "cut_to_context": 2},
    ]
    b = "7 samples (800 tokens) of `b`, subset LLM, at most 400 tokens each"
    assert render(
        template, {"quantize": {"calibration": {"sets": sets}, "input_scales": None}}
    ) == (
        "- Calibration: 2 samples (90 tokens) of `a`, at most 100 tokens each; "
        f"{b} (3 cut); {b} (3 cut, 2 of them to the model's context). "
        "Chats went through the chat template.\n"
    )
    taken = {"quantize": {"calibration": {"sets": []}, "input_scales": "sha256:x"}}
    assert "none; activation scales were taken from another release (`sha256:x`)." in render(
        template, taken
    )


def test_tables_are_whole_and_no_cell_of_a_measurement_is_empty(text: str) -> None:
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(blocks) > 10
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "\n\n\n" not in text
    assert not re.search(r"\bNone\b(?! covers)", text)


def test_what_is_in_fp8_is_said(mixed: Conversion, text: str, tmp_path: Path) -> None:
    made, _ = rendered(mixed, tmp_path, measured.results())
    other = (made.folder / "README.md").read_text()
    assert "beside FP8 (W8A8) attention and gated delta net" in other
    assert "| format | NVFP4 and FP8 (modelopt), bf16 MTP head |" in other
    assert "26 of these modules, the projections of attention and gated delta net." in other
    assert "FP8 (" not in text


def test_what_was_left_out_is_said(conversion: Conversion, tmp_path: Path) -> None:
    content = measured.results()
    del content["evaluate_ifeval"], content["evaluate_bfcl"]
    content["measure_serving"] = measured.serving(drafted=(0,), repeats=5)
    content["evaluate_quality"] = measured.quality(base=False, loads=False, documents=1)
    made, _ = rendered(conversion, tmp_path, content)
    text = (made.folder / "README.md").read_text()
    assert text.count("the evaluation was left out") == 2
    assert "no launch of this release drafts tokens" in text
    assert "pictures/acceptance.svg" not in made.files
    assert "| bf16 reference | this release | n (tokens) |" in text
    assert "the engine says `KeyError: 'model.language_model.layers.0'`" in text


def test_a_note_of_the_harness_stands_beside_scores_and_in_the_limits(
    conversion: Conversion, tmp_path: Path, text: str
) -> None:
    assert text.count(str(Card().harness_only_note)) == 3
    made, _ = rendered(conversion, tmp_path, measured.results(), harness_only_note=None)
    assert "prove that the harness" not in (made.folder / "README.md").read_text()


def test_launches_are_explained_and_their_memory_is_predicted(
    conversion: Conversion, tmp_path: Path
) -> None:
    launch = PICO_LAUNCH.model_copy(update={"title": "On a big GPU", "gpu": "rtx-pro-6000"})
    made, _ = rendered(conversion, tmp_path, measured.results(), launches=(PICO_LAUNCH, launch))
    text = (made.folder / "README.md").read_text()
    assert text.count("Predicted for vllm") == 1
    assert text.index("### On a big GPU") < text.index("Predicted for vllm")
    assert "| `--reasoning-parser qwen3` |" in text


def test_a_missing_measurement_is_named(conversion: Conversion, tmp_path: Path) -> None:
    content = measured.results()
    del content["evaluate_quality"]
    with pytest.raises(ScionError, match=r"evaluate_quality(.|\n)*quality\.json"):
        rendered(conversion, tmp_path, content)
    assert not (tmp_path / "render_card").exists()


def test_pictures_and_answers_are_sealed_and_checked(
    conversion: Conversion, made: tuple[Artifact, dict[str, Artifact]], folder: Path
) -> None:
    card, evidence = made
    seal_release(
        release=conversion.graft_mtp,
        card=card,
        evidence=evidence,
        output=Output.at(folder / "seal_release"),
        environment="sha256:tests",
    )
    sealed = folder / "release"
    sums = (sealed / "SHA256SUMS").read_text()
    assert "  pictures/speed.svg\n" in sums
    assert check_release(FolderTree(sealed))[1] == []
    lines = "\n".join(summary(folder))
    assert "agent tasks: 5/5, all cases 107/110 = 97.3 % (92.3–99.1)" in lines
    assert re.search(r"^MTP n=3: +accepted by position \d\d\.\d % \(", lines, re.MULTILINE)
    assert re.search(r"^perplexity: .*; loss \+0\.00", lines, re.MULTILINE)

    picture = sealed / "pictures/speed.svg"
    picture.write_text(picture.read_text().replace("Decode", "decode"))
    assert [line.split(":")[0] for line in check_release(FolderTree(sealed))[1]] == [
        "pictures/speed.svg"
    ]


def test_a_column_without_content_is_left_out_and_bars_are_escaped() -> None:
    assert table(["a", "b", "c"], [["1", "", "x|y"]]) == "| a | c |\n| --- | --- |\n| 1 | x\\|y |"
