import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import measured
from card_text import breakable
from conversion import Conversion
from scion.artifacts.artifact import Artifact
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.making import Output
from scion.artifacts.release_check import check_release
from scion.artifacts.software import Software
from scion.common.errors import ScionError
from scion.common.text import number, ratio, share, small, table
from scion.engines.config import PICO_LAUNCH
from scion.evaluation.intervals import proportion
from scion.report.card.glance import measured_lines
from scion.report.card.launches import launch_values
from scion.report.card.memory import fitting_gpus
from scion.report.card.provenance_page import PROVENANCE_PAGE
from scion.report.card.serving import recommendation
from scion.report.card.typography import unbroken, without_tags
from scion.report.config import Card
from scion.report.summary import summary
from scion.stages.render_card import linked, render
from scion.stages.seal_release import seal_release
from sealed import MADE_BY, TEMPLATE, rendered, sealed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("card")


@pytest.fixture(scope="module")
def made(conversion: Conversion, folder: Path) -> tuple[Artifact, dict[str, Artifact]]:
    return rendered(conversion, folder, measured.results())


@pytest.fixture(scope="module")
def text(made: tuple[Artifact, dict[str, Artifact]]) -> str:
    """The card without what keeps its intervals together."""
    return read(made[0])


def read(made: Artifact) -> str:
    return breakable((made.folder / "README.md").read_text())


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
    assert "| n=3 | tools, no thinking |" in text
    assert "Greedy text with n=3 equals that without MTP in 32 of 32 replies." in text


def test_scores_stand_with_their_interval_and_count(text: str) -> None:
    tasks = measured.agent_tasks()
    assert "### Agent tasks: 107 of 110 cases" in text
    # Not that of the first cases, of which all five passed.
    assert "5 of 5" not in text
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
    page = (made[0].folder / PROVENANCE_PAGE).read_text()
    beside = re.findall(r"^!\[.*\]\((.*)\)$", page, re.MULTILINE)
    drawn = sorted(name for name in made[0].files if "svg" in name)
    assert sorted([*links.values(), *beside]) == drawn
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
    other = read(made)
    assert "| NVFP4 weights (modelopt, W4A4, blocks of 16) beside FP8 (W8A8) attention and" in other
    assert "26 of these modules, the projections of attention and gated delta net." in other
    assert "FP8 (" not in text


def test_what_was_left_out_is_said(conversion: Conversion, tmp_path: Path) -> None:
    content = measured.results()
    del content["evaluate_ifeval"], content["evaluate_bfcl"]
    content["measure_serving"] = measured.serving(drafted=(0,), repeats=5)
    content["evaluate_quality"] = measured.quality(base=False, loads=False, documents=1)
    made, _ = rendered(conversion, tmp_path, content)
    text = read(made)
    assert text.count("the evaluation was left out") == 2
    assert "\nNot measured: no launch of this release drafts tokens.\n" in text
    lines = glance(text)
    assert len(lines) == 8
    assert lines["acceptance"] == "not measured: no launch of this release drafts tokens"
    assert "tokens a second with no MTP: 200 tokens" in (lines["speed"] or "")
    assert lines["tasks"].endswith("; IFEval not measured; BFCL not measured")
    assert "pictures/acceptance.svg" not in made.files
    assert "| bf16 reference | this release | n (tokens) |" in text
    assert "the engine says `KeyError: 'model.language_model.layers.0'`" in text


def test_a_note_of_the_harness_stands_beside_scores_and_in_the_limits(
    conversion: Conversion, tmp_path: Path, text: str
) -> None:
    assert text.count(str(Card().harness_only_note)) == 3
    made, _ = rendered(conversion, tmp_path, measured.results(), harness_only_note=None)
    assert "prove that the harness" not in read(made)


def test_launches_are_explained_and_their_memory_is_predicted(
    conversion: Conversion, tmp_path: Path
) -> None:
    launch = PICO_LAUNCH.model_copy(update={"title": "On a <big> GPU", "gpu": "rtx-pro-6000"})
    summary = "An agent with <think> and `<tool>`."
    launches = (PICO_LAUNCH, launch)
    made, _ = rendered(conversion, tmp_path, measured.results(), launches=launches, summary=summary)
    text = read(made)
    assert text.count("Predicted for vllm") == 1
    # A tag outside of code would not be shown.
    title = "<summary>On a &lt;big> GPU</summary>"
    assert text.index(title) < text.index("Predicted for vllm")
    assert "\nAn agent with &lt;think> and `<tool>`.\n" in text
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
    assert "agent tasks: 107 of 110 cases = 97.3 % (92.3–99.1)" in lines
    assert re.search(r"^MTP n=3: +accepted by position \d\d\.\d % \(", lines, re.MULTILINE)
    assert re.search(
        r"^quality: +KL 0\.\d+ \(.* loss \+0\.00.* tokens of whole chats$", lines, re.MULTILINE
    )
    assert re.search(r"^note: +The model is tiny", lines, re.MULTILINE)

    picture = sealed / "pictures/speed.svg"
    picture.write_text(picture.read_text().replace("Decode", "decode"))
    assert [line.split(":")[0] for line in check_release(FolderTree(sealed))[1]] == [
        "pictures/speed.svg"
    ]


def test_a_column_without_content_is_left_out_and_bars_are_escaped() -> None:
    assert table(["a", "b", "c"], [["1", "", "x|y"]]) == "| a | c |\n| --- | --- |\n| 1 | x\\|y |"


def glance(text: str) -> dict[str, str]:
    """The lines of the first table, by their heading."""
    (rows,) = re.findall(r"\| at a glance \| \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text)
    return dict(re.findall(r"^\| \*\*(\w+)\*\* \| (.*) \|$", rows, re.MULTILINE))


def test_the_card_begins_with_eight_lines_that_have_their_intervals_and_counts(text: str) -> None:
    lines = glance(text)
    assert list(lines) == [
        *("what", "size", "acceptance", "speed"),
        *("tasks", "quality", "verified", "licence"),
    ]
    run = measured.serving()["runs"][-1]
    (counts,) = [row for row in run["acceptance"] if row["set"] == "all"]
    assert lines["acceptance"] == (
        f"{number(counts['mean_length'], 2)} of 4 tokens a step with 3 MTP drafts; accepted by "
        f"position: {', '.join(share(rate) for rate in counts['per_position'])}; "
        f"n={counts['drafts']} drafts on 16 prompts"
    )
    longest = next(one for one in run["speed"] if (one["parallel"], one["tokens"]) == (1, 200))
    assert lines["speed"].startswith(
        f"{number(longest['tokens_per_second'])} tokens a second with MTP n=3, "
        f"{ratio(longest['ratio_to_baseline'])} the speed without MTP: 200 tokens, one request, "
        "n=6 repeats, on 2 cores of AMD EPYC"
    )
    assert lines["tasks"] == (
        "107 of 110 agent cases, 97.3 % (92.3–99.1); IFEval, prompt strict: "
        f"{share(measured.ifeval()['scores']['prompt_strict'])} of 24 prompts; "
        f"BFCL: 9 of 16 cases, {share(proportion(9, 16).record())}"
    )
    scores = measured.quality()["models"][2]["parts"]["chats"]
    assert small(scores["kl"]) in lines["quality"]
    assert share(scores["top1_agreement"]) in lines["quality"]
    assert f"n={scores['tokens']:,} held-out tokens of whole chats" in lines["quality"]
    assert "74 of 274" in lines["verified"]
    assert "50 quantized modules" in lines["verified"]
    assert "apache-2.0" in lines["licence"]


def test_the_card_recommends_the_fastest_beside_the_predicted_drafts(text: str) -> None:
    record = measured.serving()
    run, prediction = record["runs"][-1], record["prediction"]
    longest = next(one for one in run["speed"] if (one["parallel"], one["tokens"]) == (1, 200))
    best = next(
        row for row in prediction["speeds"] if row["speculative_tokens"] == prediction["best"]
    )
    assert best["measured"] is None
    assert (
        " Recommended: MTP n=3, the fastest of n=0, 1 and 3 with "
        f"{number(longest['tokens_per_second'])} tokens a second. Predicted fastest of up to 8: "
        f"n={prediction['best']} with {best['tokens_per_second']:.1f}, not measured.\n"
    ) in text


def test_a_recommendation_needs_two_numbers_and_knows_old_records() -> None:
    assert recommendation(measured.serving(drafted=(3,))) == ""
    old = measured.serving()
    del old["prediction"]
    assert recommendation(old).endswith(" tokens a second.")
    both = measured.serving(drafted=(0, 1, 3, 8))
    both["prediction"]["best"] = 8
    speed = both["prediction"]["speeds"][8]["measured"]
    assert recommendation(both).startswith("Recommended: MTP n=8, the fastest of n=0, 1, 3 and 8")
    assert " a second; its interval overlaps with that of n=3. Predicted" in recommendation(both)
    assert recommendation(both).endswith(f", measured {number(speed)}.")


@pytest.mark.parametrize("environment", ["serve-cpu", "serve-cuda"])
def test_the_command_drafts_as_many_tokens_as_are_recommended(
    conversion: Conversion, environment: str
) -> None:
    record = measured.serving(drafted=(0, 1, 3, 8))
    record["engine"] = record["engine"] | {"environment": environment}
    drafting = PICO_LAUNCH.model_copy(update={"gpu": "rtx-5090"})
    other = drafting.model_copy(update={"name": "other"})
    first, second = launch_values(
        conversion.graft_mtp.folder, [drafting, other], record, repository="owner/Name"
    )
    told = [re.findall(r'num_speculative_tokens":(\d+)', way["command"]) for way in first["ways"]]
    # What was measured on a CPU recommends nothing for a GPU.
    assert told == ([["8"], ["3"]] if environment == "serve-cpu" else [["8"]])
    steps = "3" if environment == "serve-cpu" else "8"
    assert f"--speculative-num-steps {steps} " in first["sglang"]["command"]
    assert all('num_speculative_tokens":3' in way["command"] for way in second["ways"])


def test_a_launch_whose_drafts_do_not_pay_is_shown_without(conversion: Conversion) -> None:
    record = measured.serving()
    for decode in record["runs"][0]["speed"]:
        decode["tokens_per_second"]["value"] *= 9
    (launch,) = launch_values(
        conversion.graft_mtp.folder, [PICO_LAUNCH], record, repository="owner/Name"
    )
    assert "speculative" not in launch["ways"][0]["command"]
    lines = measured_lines(measured.results() | {"measure_serving": record})
    assert " with no MTP: 200 tokens" in (lines["speed"] or "")
    assert " tokens a step with 3 MTP drafts" in (lines["acceptance"] or "")
    assert recommendation(record).startswith("Recommended: no MTP, the fastest of n=0, 1 and 3")


def test_the_launch_comes_before_results_and_these_before_the_proof(text: str) -> None:
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Serve it", "Results", "How it was made", "Proof"]
    assert text.index("api_server.entry") < text.index("## Results")
    # Not one digest before them.
    assert "sha256" not in text[: text.index("## Results")]


def test_the_size_says_which_gpus_the_first_launch_fits(conversion: Conversion, text: str) -> None:
    size = glance(text)["size"]
    assert size.startswith("3.74 MB of tensors, 7.74 MB in the parent; predicted for vllm ")
    assert ", 2,048 tokens of context: fits RTX PRO 6000 Blackwell, GeForce RTX 5090" in size
    # Its memory is the system's, too.
    assert size.endswith("; fits with warnings DGX Spark (GB10)")
    two = PICO_LAUNCH.model_copy(update={"max_model_len": 1 << 20, "tensor_parallel": 2})
    told = fitting_gpus(conversion.graft_mtp.folder, two, text_only=True)
    assert "1,048,576 tokens of context: 2 GPUs of each: does not fit RTX PRO 6000" in told
    assert "; fits" not in told


def test_why_other_numbers_of_acceptance_are_no_fault_is_said(text: str) -> None:
    assert "Why <code>scion acceptance</code>, without a server, gives other numbers" in text
    assert "Greedy texts part where two tokens are nearly as likely" in text


def test_no_interval_of_the_card_has_a_place_to_break(
    made: tuple[Artifact, dict[str, Artifact]],
) -> None:
    text = (made[0].folder / "README.md").read_text()
    assert unbroken(breakable(text)) == text
    assert len(re.findall(r"\d\u00a0\([^)\n ]*\u2060–\u2060[^)\n ]*\)", text)) > 100
    assert not re.search(r"\d (?:%|\([\d+\N{MINUS SIGN}])", text)


@pytest.mark.parametrize(
    ("written", "joined"),
    [
        ("82.1 % (79.0–84.9)", "82.1_%_(79.0.–.84.9)"),
        ("109.9 (105.2–112.0) of 4", "109.9_(105.2.–.112.0) of 4"),
        ("2.25× (2.10–2.41)", "2.25×_(2.10.–.2.41)"),
        ("+0.0031 (+0.0010 to +0.0072)", "+0.0031_(+0.0010_to_+0.0072)"),
        (
            "\N{MINUS SIGN}0.18 (\N{MINUS SIGN}0.20 to \N{MINUS SIGN}0.16)",
            "\N{MINUS SIGN}0.18_(\N{MINUS SIGN}0.20_to_\N{MINUS SIGN}0.16)",
        ),
        ("1,024.5 (1,000–1,100)", "1,024.5_(1,000.–.1,100)"),
        ("the 95 % interval", "the 95_% interval"),
        ("positions 1–3 (of 4)", "positions 1–3 (of 4)"),
        ("2 (tokens)", "2 (tokens)"),
    ],
)
def test_intervals_are_joined(written: str, joined: str) -> None:
    wanted = re.sub(r"\.–\.", "\u2060–\u2060", joined).replace("_", "\u00a0")
    assert unbroken(written) == wanted
    assert breakable(wanted) == written


def test_tags_are_text_outside_of_code() -> None:
    assert without_tags("a < b, `<c>`, <d>") == "a &lt; b, `<c>`, &lt;d>"


# Which Scion made it


def test_the_scion_that_rendered_is_named_recorded_and_installed_by_one_line(
    made: tuple[Artifact, dict[str, Artifact]], text: str
) -> None:
    assert made[0].facts["made_by"] == MADE_BY.record()
    assert f"made by [Scion 0.1.0]({MADE_BY.url}/tree/{MADE_BY.commit})" in glance(text)["verified"]
    assert f"commit `{MADE_BY.commit}`. Whoever" in text
    assert f'\nuv tool install "git+{MADE_BY.url}@{MADE_BY.commit}"\nscion check FOLDER\n' in text


@pytest.mark.parametrize(
    ("software", "said"),
    [
        (Software("0.2.0"), "Made by Scion 0.2.0, of a commit that is not known. Whoever"),
        (Software("0.2.0", commit="a" * 40), f"Made by Scion 0.2.0, commit `{'a' * 40}`. Whoever"),
        (
            Software("0.2.0", url="https://x.org/s"),
            "Made by [Scion 0.2.0](https://x.org/s), of a commit that is not known. Whoever",
        ),
        (
            Software("0.2.0", commit="a" * 40, modified=True),
            f"Scion 0.2.0, commit `{'a' * 40}` with changes that are not committed. Whoever",
        ),
    ],
)
def test_no_address_and_no_commit_is_made_up(tmp_path: Path, software: Software, said: str) -> None:
    _, proof = TEMPLATE.read_text().split("## Proof\n")
    template = tmp_path / "proof.md.jinja"
    template.write_text(proof.split("<details>")[0])
    text = render(template, {"made_by": software, "scion": linked(software)})
    assert said in text
    assert "uv tool install" not in text
    assert "with `scion check FOLDER`" in text


def test_another_commit_of_the_same_code_makes_no_other_card(
    conversion: Conversion, tmp_path: Path
) -> None:
    first, _ = rendered(conversion, tmp_path, measured.results())
    other = Software("0.3.0", commit="b" * 40)
    again, _ = rendered(conversion, tmp_path, measured.results(), made_by=other)
    assert again.root == first.root
    elsewhere, _ = rendered(conversion, tmp_path / "other", measured.results(), made_by=other)
    assert elsewhere.recipe == first.recipe
    assert elsewhere.content != first.content


def test_what_was_rendered_of_changes_is_rendered_again_when_they_are_committed(
    conversion: Conversion, tmp_path: Path
) -> None:
    def render_by(software: Software) -> Artifact:
        return rendered(conversion, tmp_path, measured.results(), made_by=software)[0]

    changed = Software("0.1.0", commit="b" * 40, modified=True)
    first = render_by(changed)
    assert render_by(Software("0.1.0", commit="c" * 40, modified=True)).root == first.root
    # Who can't say the commit knows nothing better.
    assert render_by(Software("0.1.0")).root == first.root
    committed = render_by(MADE_BY)
    assert committed.facts["made_by"] == MADE_BY.record()
    assert committed.recipe == first.recipe
    assert render_by(changed).root == committed.root


# Scores for the hub's own pages


def eval_results(folder: Path) -> Any:
    """What the hub's own library reads of a card."""
    data: Any = ModelCard.load(folder / "README.md").data
    return data.eval_results


def test_a_score_on_all_of_a_public_set_is_told_in_the_hubs_two_forms(
    conversion: Conversion, tmp_path: Path
) -> None:
    content = measured.results()
    commit = "0123456789abcdef0123456789abcdef01234567"
    public = {"repository": "google/IFEval", "revision": commit}
    content["evaluate_ifeval"]["dataset"] |= public
    content["evaluate_ifeval"]["limit"] = None
    folder = sealed(conversion, tmp_path / "made", content)
    (told,) = yaml.safe_load((folder / ".eval_results/ifeval.yaml").read_text())
    strict = content["evaluate_ifeval"]["scores"]["prompt_strict"]["value"]
    assert told["dataset"] == {"id": "google/IFEval", "task_id": "default", "revision": commit}
    assert told["value"] == round(100 * strict, 2)
    results = eval_results(folder)
    assert {result.metric_type for result in results} == set(content["evaluate_ifeval"]["scores"])
    assert {result.dataset_type for result in results} == {"google/IFEval"}
    assert {result.dataset_revision for result in results} == {commit}
    # They are files of the release like any other.
    assert check_release(FolderTree(folder))[1] == []


@pytest.mark.parametrize(
    ("dataset", "limit"), [({}, None), ({"repository": "google/IFEval", "revision": "0" * 40}, 20)]
)
def test_a_part_of_a_set_or_a_file_of_ones_own_is_not(
    dataset: dict[str, str], limit: int | None, conversion: Conversion, tmp_path: Path
) -> None:
    content = measured.results()
    content["evaluate_ifeval"]["dataset"] |= dataset
    content["evaluate_ifeval"]["limit"] = limit
    made, _ = rendered(conversion, tmp_path, content)
    assert not (made.folder / ".eval_results").exists()
    assert eval_results(made.folder) is None
