"""Scores in the two forms that the hub reads: the card's model-index, and `.eval_results/*.yaml`.

Only what others can compare is told: a data set of the hub at a commit, all of its prompts. Scores
of a part of it, or of a file of one's own, stand in the card alone. The second form is young
(https://huggingface.co/docs/hub/eval-results): the hub shows it for data sets that it knows, and
calls it work in progress; the first is older, and read by more.
"""

from collections.abc import Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from scion.common.text import Record
from scion.evaluation.harness.config import IFEVAL_RECORD

FOLDER = ".eval_results"


def model_index(records: Mapping[str, Record], *, base: str) -> list[EvalResult]:
    """The results that the card's metadata holds.

    Args:
        records: By stage.
        base: What the scores are of, in words.
    """
    ifeval = _comparable_ifeval(records)
    if ifeval is None:
        return []
    data = ifeval["dataset"]
    return [
        EvalResult(
            task_type="text-generation",
            task_name=base,
            dataset_type=data["repository"],
            dataset_name="IFEval",
            dataset_revision=data["revision"],
            metric_type=metric,
            metric_value=round(100 * score["value"], 2),
            metric_name=metric.replace("_", " "),
        )
        for metric, score in ifeval["scores"].items()
    ]


def eval_result_files(records: Mapping[str, Record]) -> dict[str, str]:
    """The files of `.eval_results/` by their names: YAML."""
    ifeval = _comparable_ifeval(records)
    if ifeval is None:
        return {}
    data, engine = ifeval["dataset"], ifeval["engine"]
    thinking = "thinking" if ifeval["thinking"] else "no thinking"
    harness = f"{ifeval['harness']['name']} {ifeval['harness']['version']}"
    entry = EvalResultEntry(
        dataset_id=data["repository"],
        task_id="default",
        dataset_revision=data["revision"],
        value=round(100 * ifeval["scores"]["prompt_strict"]["value"], 2),
        notes=f"prompt strict; {harness}, {engine['name']} {engine['version']}, {thinking}, "
        f"{ifeval['max_tokens']} tokens at most",
    )
    told: Any = eval_result_entries_to_yaml([entry])
    return {"ifeval.yaml": yaml.safe_dump(told, sort_keys=False)}


def _comparable_ifeval(records: Mapping[str, Record]) -> Record | None:
    ifeval = records.get(IFEVAL_RECORD.stage)
    if ifeval is None or ifeval["limit"] is not None or "repository" not in ifeval["dataset"]:
        return None
    return ifeval
