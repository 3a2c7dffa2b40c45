"""`scion compare`, over releases that the project's own helpers seal."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import measured
from checkpoints import edit_tensor, tiny_config, write_checkpoint
from commands import check_refusal
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.manifest import manifest_digests
from scion.common.errors import ScionError
from scion.common.files import copy_file, write_json
from scion.report.comparison.findings import Number, OneSided, Value, compare, title
from scion.report.comparison.paired import paired_numbers
from scion.report.comparison.releases import open_release
from scion.stages.seal_release import seal_release

DECODE = "serving.json: pico n=3: 100 tokens, 1 parallel: tokens_per_second"
JUDGED = [
    ((10, 9, 11), (10, 8, 12), "same"),
    ((10, None, None), (10, None, None), "same"),
    ((10, 9, 12), (11, 10, 13), "within"),
    ((10, 9, 11), (12, 11, 13), "overlap"),
    ((10, 9, 11), (10.5, 10.4, 10.6), "overlap"),
    ((10, 9, 11), (12, 11.5, 13), "apart"),
    ((12, 11.5, 13), (10, 9, 11), "apart"),
    ((10, 9, 11), (12, None, None), "unknown"),
]


def estimate(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "count": 6}


def decode(content: dict[str, Any], drafted: int = 3) -> dict[str, Any]:
    """The row of `DECODE`."""
    serving = content["measure_serving"]
    run = next(
        candidate for candidate in serving["runs"] if candidate["speculative_tokens"] == drafted
    )
    return next(row for row in run["speed"] if (row["tokens"], row["parallel"]) == (100, 1))


def made(
    folder: Path,
    stage: str,
    settings: dict[str, Any],
    files: dict[str, Any],
    environment: str = "sha256:tests",
    **facts: Any,
) -> Artifact:
    def build(draft: Draft) -> None:
        draft.facts |= facts
        for name, content in files.items():
            if isinstance(content, Path):
                copy_file(content, draft.folder / name)
            else:
                write_json(draft.folder / name, content)

    return remake(
        Output.at(folder / stage),
        stage=stage,
        inputs={},
        settings=settings,
        environment=environment,
        build=build,
    )


def sealed(
    folder: Path,
    content: dict[str, Any],
    *,
    flipped: str | None = None,
    settings: dict[str, Any] | None = None,
    verified: Any = None,
    environment: str = "sha256:tests",
) -> Path:
    """The folder of a release's artifacts, sealed; one byte of the tensor `flipped` is another."""
    checkpoint = write_checkpoint(folder / "checkpoint", tiny_config())
    if flipped is not None:
        edit_tensor(checkpoint, flipped, lambda raw: raw.__setitem__(0, raw[0] ^ 1))
    files = {path.name: path for path in checkpoint.iterdir()}
    grafted = made(folder, "graft_mtp", settings or {"a": {"b": 1}}, files)
    card = made(folder, "render_card", {}, {"README.md": ["card"]}, made_by={})
    report = made(
        folder,
        "verify_release",
        {},
        {"verification.json": verified or {"tensors": 9}},
        environment=environment,
    )
    evidence = measured.artifacts(content, release=grafted, folder=folder)
    seal_release(
        release=grafted,
        card=card,
        evidence=evidence | {"verify_release": report},
        output=Output.at(folder / "seal_release"),
        environment="sha256:tests",
    )
    return folder


def scion(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scion.cli.main", "compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def compared(*arguments: object) -> dict[str, Any]:
    done = scion(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed(tmp_path_factory.mktemp("first"), measured.results())


@pytest.fixture
def content() -> dict[str, Any]:
    """Results to change."""
    return copy.deepcopy(measured.results())


@pytest.mark.parametrize(("one", "other", "verdict"), JUDGED)
def test_the_verdict_follows_from_both_intervals(
    one: tuple[float, ...], other: tuple[float, ...], verdict: str
) -> None:
    a, b = estimate(*one), estimate(*other)
    assert Number((), a, b).verdict == Number((), b, a).verdict == verdict


def test_a_change_is_told_in_percent_and_in_half_widths() -> None:
    number = Number((), estimate(10, 9, 11), estimate(13, 11, 15))
    assert (number.change, number.percent, number.half, number.halves) == (3, 30, 2, 1.5)
    number = Number((), estimate(0, None, None), estimate(3, 3, 3))
    assert (number.change, number.percent, number.half, number.halves) == (3, None, 0, None)


def test_every_verdict_is_told_and_counted(
    first: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    row = decode(content)
    speed, wait, ratio = row["tokens_per_second"], row["ttft_ms"], row["ratio_to_baseline"]
    row["tokens_per_second"] = {key: 2 * part for key, part in speed.items()}
    row["ttft_ms"] = wait | {"value": wait["value"] * 1.0001}
    row["ratio_to_baseline"] = ratio | {"value": ratio["value"] + 9, "high": ratio["high"] + 9}
    row["itl_ms"] = row["itl_ms"] | {"value": 9.5, "low": None, "high": None}
    second = sealed(tmp_path, content)
    found = compared(first, second)
    assert [(number["verdict"], number["path"].split(": ")[-1]) for number in found["numbers"]] == [
        ("apart", "tokens_per_second"),
        ("unknown", "itl_ms"),
        ("overlap", "ratio_to_baseline"),
        ("within", "ttft_ms"),
    ]
    assert found["numbers"][0]["path"] == DECODE
    assert found["numbers"][0]["percent"] == pytest.approx(100)
    assert found["numbers"][0]["a"] == speed
    counts = found["counts"]
    assert counts["numbers"] == counts["same"] + 4
    assert counts["values_different"] == counts["only_in_a"] == counts["only_in_b"] == 0

    lines = scion(first, second).stdout.splitlines()
    assert lines[-1] == (
        f"{counts['numbers']} numbers: {counts['same']} same, 1 within, 1 overlap, 1 apart, "
        f"1 unknown; 0 other values differ, {counts['values_equal']} are equal; 0 only in A, "
        "0 only in B"
    )
    shown = [line for line in lines if line.endswith(DECODE)]
    assert len(shown) == 1
    assert shown[0].startswith("apart ")
    assert "(+100.0 %)" in shown[0]
    columns = {line.index("serving.json") for line in lines if "100 tokens" in line}
    assert len(columns) == 1


def test_the_same_prompts_are_compared_one_by_one(
    first: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    run = content["measure_serving"]["runs"][2]
    for reply in run["replies"]:
        reply["accepted_by_position"][2] = min(
            reply["accepted_by_position"][1], reply["accepted_by_position"][2] + 2
        )
    second = sealed(tmp_path, content)
    found = compared(first, second)
    # Eight sets and all, for tokens a step and three positions, but for what is the same.
    assert found["counts"]["paired"] == 9 * (1 + 1) + 9 * (1 + 3)
    paired = {number["path"]: number for number in found["paired"]}
    assert {path.split(", ")[0] for path in paired} == {
        "pico MTP n=3: tokens a step",
        "pico MTP n=3: accepted at position 3",
    }
    overall = paired["pico MTP n=3: accepted at position 3, all prompts"]
    (before,) = measured.serving()["runs"][2]["acceptance"][-1:]
    assert overall["a"] == pytest.approx(before["per_position"][2]["value"], abs=1e-6)
    assert overall["b"] - overall["a"] == pytest.approx(overall["difference"]["value"], abs=2e-6)
    assert overall["differs"] is True
    assert overall["difference"]["count"] == 16
    # The interval of the pairs is narrower than each of the two.
    width = before["per_position"][2]["high"] - before["per_position"][2]["low"]
    assert overall["difference"]["high"] - overall["difference"]["low"] < width / 2
    # Counts of single replies are told as these differences alone.
    assert not any("replies" in value["path"] for value in found["values"])

    lines = scion(first, second).stdout.splitlines()
    assert "the same prompts, one by one:" in lines
    (shown,) = (line for line in lines if line.endswith("accepted at position 3, all prompts"))
    assert shown.startswith("differs ")
    assert f"; {found['counts']['paired_different']} of 54 paired ones differ; " in lines[-1]


def test_other_prompts_and_older_records_are_not_paired(content: dict[str, Any]) -> None:
    new = {"serving.json": measured.serving()}
    assert len(paired_numbers(new, new)) == 54
    other, old = (copy.deepcopy(content["measure_serving"]) for _ in range(2))
    other["prompts"]["sha256"] = "0" * 64
    for run in old["runs"]:
        del run["replies"]
    for side in ({"serving.json": other}, {"serving.json": old}, {}):
        assert paired_numbers(new, side) == paired_numbers(side, new) == []


def test_counts_that_can_not_be_paired_are_named(content: dict[str, Any]) -> None:
    content["measure_serving"]["runs"][1]["replies"].pop()
    with pytest.raises(ScionError, match="accepted drafts can't be compared") as caught:
        paired_numbers(
            {"serving.json": measured.serving()}, {"serving.json": content["measure_serving"]}
        )
    assert "not to the same prompts" in caught.value.found


def test_lists_are_aligned_by_what_identifies_their_items(content: dict[str, Any]) -> None:
    a = {f"{stage}.json": result for stage, result in measured.results().items()}
    b = {f"{stage}.json": backwards(content[stage]) for stage in content}
    found = compare(a, b)
    assert all(isinstance(difference, Value | Number) for difference in found)
    assert [
        difference
        for difference in found
        if isinstance(difference, Number) and difference.verdict != "same"
    ] == []
    assert [
        difference for difference in found if isinstance(difference, Value) and not difference.equal
    ] == []
    assert len({title(difference.path) for difference in found}) == len(found)
    assert "measure_serving.json: pico n=3: chat, no thinking: per_position #2" in {
        title(difference.path) for difference in found
    }


def backwards(value: Any) -> Any:
    """Lists of objects in another order; those of estimates have an order that counts."""
    if isinstance(value, dict):
        return {key: backwards(part) for key, part in value.items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [backwards(item) for item in value]
        return items if "low" in items[0] else items[::-1]
    return value


def test_items_of_the_same_name_and_of_none_are_told_apart() -> None:
    names = [{"name": "x", "rate": 1}, {"name": "x", "rate": 2}, {"rate": 3}]
    assert paths(compare({"f": {"rows": names[:2]}}, {"f": {"rows": names[:1]}})) == {
        "f: x: name",
        "f: x: rate",
        "f: x #2",
    }
    assert "f: #3: rate" in paths(compare({"f": {"rows": names}}, {"f": {"rows": names}}))


def paths(found: Iterable[Number | Value | OneSided]) -> set[str]:
    return {title(difference.path) for difference in found}


def test_what_one_release_lacks_is_told_at_its_root(
    content: dict[str, Any], tmp_path: Path
) -> None:
    content["measure_serving"] = measured.serving(launches=("pico", "small"))
    del content["evaluate_bfcl"]
    one = sealed(tmp_path / "one", content)
    content["measure_serving"] = measured.serving()
    content["evaluate_bfcl"] = measured.bfcl()
    content["evaluate_ifeval"]["limit"] = 24
    decode(content)["ratio_to_baseline"] = None
    del content["evaluate_quality"]["top_logprobs"]
    two = sealed(tmp_path / "two", content)
    found = compared(one, two)
    speed = DECODE.replace("tokens_per_second", "ratio_to_baseline")
    assert [entry["path"] for entry in found["only_in_b"]] == ["bfcl.json"]
    assert {entry["path"]: entry["numbers"] for entry in found["only_in_a"]} == {
        "quality.json: top_logprobs": 0,
        speed: 1,
        **{
            f"serving.json: small n={drafted}": numbers
            for drafted, numbers in ((0, 18), (1, 24), (3, 24))
        },
    }
    assert {"path": "ifeval.json: limit", "a": None, "b": 24} in found["values"]
    text = scion(one, two).stdout
    assert "only in B:\n  bfcl.json (4 numbers)\n" in text
    assert "  quality.json: top_logprobs: 64\n" in text
    assert text.splitlines()[-1].endswith("5 only in A (67 numbers), 1 only in B (4 numbers)")
    bfcl = {name: reasons(found, name) for name in ("evaluate_bfcl", "verify_release")}
    assert bfcl == {"evaluate_bfcl": ["only in B"], "verify_release": []}


def reasons(found: dict[str, Any], stage: str) -> list[str]:
    return next(entry["reasons"] for entry in found["stages"] if entry["name"] == stage)


def test_values_without_an_interval_are_listed_beside_each_other(
    first: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    run = content["measure_serving"]["runs"][0]
    run["kv_cache_tokens"], run["start_seconds"] = 174_720, 42.8
    content["measure_serving"]["hardware"] = measured.GPU
    content["measure_serving"]["prompts"]["sha256"] = "0" * 64
    content["measure_serving"]["runs"][1]["acceptance"][0]["accepted_by_position"] = [1]
    second = sealed(tmp_path, content)
    found = {value["path"]: (value["a"], value["b"]) for value in compared(first, second)["values"]}
    counted = measured.serving()["runs"][1]["acceptance"][0]["accepted_by_position"]
    assert found == {
        "serving.json: hardware: kind": ("cpu", "gpu"),
        "serving.json: hardware: name": ("AMD EPYC", "NVIDIA H200"),
        "serving.json: hardware: count": (2, 1),
        "serving.json: prompts: sha256": (measured.serving()["prompts"]["sha256"], "0" * 64),
        "serving.json: pico n=0: start_seconds": (21.4, 42.8),
        "serving.json: pico n=0: kv_cache_tokens": (349_440, 174_720),
        "serving.json: pico n=1: chat, no thinking: accepted_by_position": (counted, [1]),
    }
    lines = scion(first, second).stdout.splitlines()
    assert "without an interval:" in lines
    assert [line.split() for line in lines if "kv_cache_tokens" in line] == [
        [
            "349440",
            "174720",
            "\N{MINUS SIGN}50.0",
            "%",
            "serving.json:",
            "pico",
            "n=0:",
            "kv_cache_tokens",
        ]
    ]


def test_the_ids_of_answers_are_not_compared(content: dict[str, Any], tmp_path: Path) -> None:
    def changed(port: int, name: str, text: str) -> dict[str, Any]:
        content["run_agent_tasks"]["tasks"][0]["results"][0]["response"] = {
            "id": name,
            "created": port,
            "choices": [{"message": {"content": text, "tool_calls": [
                {"id": name, "function": {"name": "add", "arguments": "{}"}}]},
                "finish_reason": "stop"}],
        }  # fmt: skip
        return content

    one = sealed(tmp_path / "one", changed(4001, "x", "58 is larger"))
    two = sealed(tmp_path / "two", changed(4002, "y", "58 is larger"))
    three = sealed(tmp_path / "three", changed(4003, "z", "73 is larger"))
    assert compared(one, two)["values"] == []
    assert [difference["path"] for difference in compared(one, three)["values"]] == [
        "agent_tasks.json: chat_with_reasoning: case_0: response"
    ]


def test_many_values_of_one_kind_are_told_in_short(content: dict[str, Any], tmp_path: Path) -> None:
    def errors(extra: float) -> dict[str, Any]:
        return {"tensors": 9, "error_by_module": {f"m{at}": at + extra for at in range(20)}}

    one = sealed(tmp_path / "one", content, verified=errors(0.25))
    two = sealed(tmp_path / "two", content, verified=errors(0.5))
    lines = scion(one, two).stdout.splitlines()
    assert sum("error_by_module: m" in line for line in lines) == 6
    assert any(line.endswith("error_by_module: 14 more (--all)") for line in lines)
    assert lines[-1].split("; ")[1].startswith("20 other values differ")
    assert scion(one, two, "--all").stdout.count("error_by_module: m") == 20
    found = compared(one, two)
    assert reasons(found, "verify_release") == [
        "not reproduced, though made from the same: verification.json"
    ]


def test_unchanged_numbers_are_shown_on_demand(first: Path) -> None:
    assert compared(first, first)["numbers"] == []
    found = compared(first, first, "--all")
    assert len(found["numbers"]) == found["counts"]["numbers"] == found["counts"]["same"] > 100
    assert len(found["values"]) == found["counts"]["values_equal"] > 100
    assert DECODE not in scion(first, first).stdout
    assert scion(first, first, "--all").stdout.count(DECODE) == 1


def test_digests_tell_measured_anew_from_made_otherwise(
    first: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    decode(content)["repeats"] = 7
    again = sealed(tmp_path / "again", content)
    found = compared(first, again)
    assert found["weights"] == f"the same, {Artifact.open(first / 'graft_mtp').content}"
    changed = {stage["name"]: stage["reasons"] for stage in found["stages"] if not stage["same"]}
    assert changed == {
        "measure_serving": ["made from the same; measured anew: serving.json"],
        "seal_release": [
            "made from other measure_serving",
            "other files: SHA256SUMS, provenance/measure_serving.json, "
            "provenance/results/serving.json",
        ],
    }

    other = sealed(tmp_path / "other", content, settings={"a": {"b": 2, "c": ["x" * 99]}})
    found = compared(first, other)
    content_digest = Artifact.open(first / "graft_mtp").content
    assert found["weights"] == f"the same, {content_digest}, made otherwise (see graft_mtp)"
    said, files = reasons(found, "graft_mtp")
    assert said.startswith('settings a.b: 1 in A, 2 in B, a.c: null in A, ["xxx')
    assert len(said) < 100
    assert files == "the same files"
    # What is measured of the same bytes is measured of the same; who sealed them tells.
    same = {stage["name"] for stage in found["stages"] if stage["same"]}
    assert "evaluate_quality" in same
    assert reasons(found, "seal_release")[0] == "made from other measure_serving, graft_mtp"

    sets = [
        sealed(tmp_path / f"sets_{n}", content, settings={"a": {"b": 1}, "sets": [{}, {"n": n}]})
        for n in (3, 4)
    ]
    assert reasons(compared(*sets), "graft_mtp")[0] == "settings sets.1.n: 3 in A, 4 in B"

    weights = sealed(tmp_path / "weights", content, flipped="mtp.norm.weight")
    assert compared(first, weights)["weights"] == "different in model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (
            "/nix/store/x-scion-root sha256:tests",
            "environment installed otherwise, from equal locks",
        ),
        ("/nix/store/x-scion-root sha256:others", "other environment"),
        ("sha256:others", "other environment"),
    ],
)
def test_equal_locks_are_told_however_they_were_installed(
    environment: str, told: str, first: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    other = sealed(tmp_path, content, environment=environment)
    assert reasons(compared(first, other), "verify_release")[0] == told


def test_numbers_that_are_apart_fail_on_demand(
    first: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    speed = decode(content)["tokens_per_second"]
    decode(content)["tokens_per_second"] = {key: 2 * part for key, part in speed.items()}
    second = sealed(tmp_path, content)
    assert scion(first, second).returncode == 0
    assert scion(first, second, "--fail-apart").returncode == 1
    assert scion(first / "release", first, "--fail-apart").returncode == 0


def test_a_folder_without_a_release_is_refused(first: Path, tmp_path: Path) -> None:
    for folder, found in (
        (tmp_path, "no manifest.json"),
        (tmp_path / "missing", "no folder"),
        (first / "graft_mtp", "no manifest.json"),
    ):
        done = scion(first, folder)
        assert done.returncode == 2
        check_refusal(done.stderr, "there is no release", str(folder), found)


def broken(release: Path, change: Callable[[Path], None], folder: Path) -> str:
    """What is said about a copy of a release that was changed."""
    copied = folder / "copy"
    shutil.copytree(release / "release", copied)
    change(copied)
    done = scion(release, copied)
    assert done.returncode == 2
    return done.stderr


def test_another_format_of_release_is_refused(first: Path, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text()) | {"format": "scion-manifest/9"}
        path.write_text(json.dumps(manifest | {"root": manifest_digests(manifest)["root"]}))

    said = broken(first, change, tmp_path)
    check_refusal(said, "scion-manifest/2", "found:    'scion-manifest/9'")


def test_a_result_that_was_edited_or_removed_is_refused(first: Path, tmp_path: Path) -> None:
    path = Path("provenance/results/serving.json")
    said = broken(first, lambda folder: (folder / path).unlink(), tmp_path / "removed")
    check_refusal(said, "not the one that was sealed", str(path), "no file")
    said = broken(first, lambda folder: write_json(folder / path, {}), tmp_path / "edited")
    check_refusal(said, "not the one that was sealed", "scion check")


@pytest.mark.parametrize(
    "value", [48.8, [48.8], {"mean": 48.8}, {"value": None, "low": 1, "high": 2, "count": 3}]
)
def test_a_result_of_another_shape_is_refused(
    first: Path, content: dict[str, Any], tmp_path: Path, value: Any
) -> None:
    decode(content)["tokens_per_second"] = value
    done = scion(first, sealed(tmp_path, content))
    assert (done.returncode, done.stdout) == (2, "")
    check_refusal(done.stderr, "shape", DECODE, "an estimate" if value == 48.8 else "expected")


def test_a_release_is_read_whole(first: Path) -> None:
    release = open_release(first)
    assert release.results["serving.json"] == measured.serving()
    assert release.measures("measure_serving")
    assert not release.measures("verify_release")
