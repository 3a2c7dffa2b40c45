"""Two releases judged by the real stages, a few prompts each: a sound one, and one broken.

Few prompts decide little of what is right or wrong, so it is the divergence that has to tell: by a
threshold between that of a sound release, some 0.003, and that of one wrong scale, some 0.04.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import verdict as bench

from conversion import Conversion
from scion.config import Config, load_config
from scion.evaluation.verdict.criteria import judged
from scion.stages.judge_release import VerdictSettings, evidence
from scion.stages.render_verdict import render_verdict

pytestmark = [pytest.mark.serve, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def config() -> Config:
    few: dict[str, Any] = {
        "verdict": {"enabled": True, "kl_nats_per_token": 0.012},
        "agent_tasks": {"cases": 3},
        "ifeval": {"limit": 4, "max_tokens": 24},
        "bfcl": {"limit": 1, "categories": ["multiple"], "max_tokens": 24},
        "quality": {"samples": 6, "max_tokens": 500},
        "measurement": {
            "decode_tokens": [8],
            "repeats": 5,
            "reply_tokens": 16,
            "parallel_requests": [1],
            "speculative_tokens": [3],
        },
    }
    return load_config(few, where="few prompts")


@pytest.fixture(scope="module")
def judge(
    conversion: Conversion, config: Config, tmp_path_factory: pytest.TempPathFactory
) -> bench.Judge:
    return bench.Judge(config, conversion.extract_text, tmp_path_factory.mktemp("verdict"))


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "verdict.json").read_text())


def test_a_sound_release_is_no_regression(
    judge: bench.Judge, conversion: Conversion, config: Config, tmp_path: Path
) -> None:
    verdict = judge.judge("sound", conversion.graft_mtp, conversion.quantize_nvfp4)
    record = record_of(verdict.folder)
    criteria = {each["criterion"]: each for each in record["criteria"]}
    assert record["weights"] == conversion.graft_mtp.content
    assert "regression" not in {each["outcome"] for each in record["criteria"]}, record
    # Each evaluation was asked of both, and paired.
    assert criteria["agent_loss_points"]["counts"]["cases"] == 15
    assert criteria["ifeval_loss_points"]["counts"]["cases"] == 4
    assert criteria["bfcl_loss_points"]["counts"]["cases"] == 1
    assert criteria["broken_text_points"]["counts"]["cases"] == 20
    assert criteria["loss_nats_per_token"]["counts"]["documents"] == 6
    # So few prompts tell nothing of rates, and what would is said.
    assert criteria["ifeval_loss_points"]["outcome"] == "undecided"
    assert criteria["calibrated_share"]["outcome"] == "accept"
    # As the stage itself tells it.
    error = criteria["weight_error"]["estimate"]["value"]
    verified = conversion.verify_release.facts["relative_weight_error"]
    assert error == pytest.approx(verified, abs=1e-6)
    length = criteria["verbosity_ratio"]["counts"]
    assert length["release_tokens"] > length["release_thinking_tokens"] > 0

    answers = judge.folder / "sound/evaluate_ifeval/ifeval_answers.jsonl"
    told = [json.loads(line) for line in answers.read_text().splitlines()]
    assert all(0 < answer["tokens"] <= 24 for answer in told)
    assert any(answer["cut"] == (answer["tokens"] == 24) for answer in told)
    source = json.loads(
        (judge.folder / "source/evaluate_ifeval_source/ifeval_source.json").read_text()
    )
    assert source["launch"]["speculative_tokens"] == 0

    page = render_verdict(
        judged=verdict,
        template=bench.TEMPLATE,
        output=bench.Output.at(tmp_path / "render_verdict"),
        environment="sha256:tests",
    )
    text = (page.folder / "verdict.md").read_text()
    assert text.startswith(f"# Verdict: {record['outcome']}\n")
    assert "more prompts would decide" in text


def test_one_wrong_scale_is_a_regression(
    judge: bench.Judge, conversion: Conversion, tmp_path: Path
) -> None:
    broken = bench.with_wrong_scale(conversion.graft_mtp, tmp_path)
    verdict = judge.judge("broken", broken, conversion.quantize_nvfp4)
    record = record_of(verdict.folder)
    outcomes = {each["criterion"]: each["outcome"] for each in record["criteria"]}
    assert record["outcome"] == "regression"
    assert outcomes["kl_nats_per_token"] == "regression"
    assert outcomes["weight_error"] == "regression"
    assert any(reason.startswith("KL divergence from bf16: ") for reason in record["reasons"])


def test_a_record_that_lacks_leaves_its_criteria_undecided(
    judge: bench.Judge, conversion: Conversion, config: Config
) -> None:
    settings = VerdictSettings(
        verdict=config.verdict,
        launch=config.launches[0],
        mtp=config.mtp,
        ifeval=config.ifeval,
        bfcl=config.bfcl,
    )
    only = {stage: getattr(conversion, stage) for stage in ("quantize_nvfp4", "verify_release")}
    found = judged(evidence(only, settings), config.verdict)
    outcomes = [each.outcome for each in found]
    assert outcomes.count("undecided") == len(found) - 2
