"""The card's tables of what the release can do: agent tasks, quality, public benchmarks."""

from collections.abc import Sequence
from typing import Any

from scion.common.text import Record, change, mode, number, share, small, table
from scion.evaluation.intervals import proportion

MODELS = {
    "fixed": "bf16 reference",
    "source": "source as fetched",
    "release": "this release",
    "base": "base model",
}
"""How people read the names of `quality.json`, in the order in which they are shown."""

PARTS = {"assistant": "assistant tokens", "chats": "whole chats", "texts": "plain texts"}

# The first that was scored stands where there is room for one.
_LEADING = ("chats", "texts", "assistant")

ScoreGroup = tuple[str, list[tuple[str, Record]]]
"""Rates for the picture of scores: what they are of, and by name each estimate."""


def leading_part(quality: Record, model: str) -> tuple[str, Record]:
    """The held-out text that a single line tells of, the same everywhere: its name and scores.

    Args:
        quality: The content of `quality.json`.
        model: One of its models.
    """
    models = {each["name"]: each["parts"] for each in quality["models"]}
    part = next(part for part in _LEADING if models["release"].get(part))
    return PARTS[part], models[model][part]


def tasks_values(tasks: Record) -> dict[str, Any]:
    """What the template says of the agent tasks.

    Args:
        tasks: The content of `agent_tasks.json`.
    """
    rows = [
        [task["title"], f"{task['passed']} of {task['cases']}", share(task["rate"])]
        for task in tasks["tasks"]
    ]
    rows.append(["all", f"**{tasks['passed']} of {tasks['total']}**", share(tasks["rate"])])
    return {
        "passed": tasks["passed"],
        "total": tasks["total"],
        "rate": share(tasks["rate"]),
        "speculative_tokens": tasks["speculative_tokens"],
        "table": table(["task", "cases passed", "pass rate"], rows),
        "failures": [
            f"{task['title']}, `{result['name']}`: {result['reason']}"
            for task in tasks["tasks"]
            for result in task["results"]
            if not result["passed"]
        ],
    }


def tasks_scores(tasks: Record) -> ScoreGroup:
    """The pass rate of each agent task."""
    return "agent tasks", [(task["title"], task["rate"]) for task in tasks["tasks"]]


def quality_values(quality: Record) -> dict[str, Any]:
    """What the template says of perplexity and of the distance to the bf16 reference.

    Args:
        quality: The content of `quality.json`.
    """
    scored = {model["name"]: model["parts"] for model in quality["models"] if model["parts"]}
    models = [name for name in MODELS if name in scored]
    return {
        "datasets": [
            {"name": name, **dataset} for name, dataset in quality["datasets"].items() if dataset
        ],
        "top_logprobs": quality["top_logprobs"],
        "scores": _score_table(scored, models),
        "differences": _difference_table(
            scored, [name for name in models if name != quality["reference"]]
        ),
        "source": _source_words(quality["models"]),
    }


def _score_table(scored: dict[str, Record], models: Sequence[str]) -> str:
    """Loss and perplexity by part, a column for each model."""
    rows: list[list[str]] = []
    for part, words in PARTS.items():
        cells = [scored[name].get(part) for name in models]
        counted = next((cell for cell in cells if cell), None)
        if counted is None:
            continue
        for key, digits in (("loss", 4), ("perplexity", 4)):
            shown = [number(cell[key], digits) if cell else "" for cell in cells]
            rows.append([f"{key}, {words}", *shown, str(counted["tokens"])])
    return table(["", *(MODELS[name] for name in models), "n (tokens)"], rows)


def _difference_table(scored: dict[str, Record], models: Sequence[str]) -> str:
    rows = [
        [
            MODELS[name],
            words,
            change(part_record["loss_change"]),
            small(part_record["kl"]),
            share(part_record["top1_agreement"]),
            str(part_record["tokens"]),
        ]
        for name in models
        for part, words in PARTS.items()
        if (part_record := scored[name].get(part))
    ]
    headings = ["", "on", "loss change", "KL divergence", "same most likely token"]
    return table([*headings, "n (tokens)"], rows)


def _source_words(models: Sequence[Record]) -> str:
    """What became of the checkpoint as it was fetched."""
    source = next((model for model in models if model["name"] == "source"), None)
    if source is None:
        return ""
    if not source["loads"]:
        words = " ".join(str(source["engine_says"]).split()).replace("`", "'")
        return f"The source as it was fetched can't be served: the engine says `{words}`."
    if source["same_as"]:
        return "The source as it was fetched has the same tensors as the bf16 reference."
    return ""


def ifeval_values(ifeval: Record) -> dict[str, Any]:
    """What the template says of IFEval.

    Args:
        ifeval: The content of `ifeval.json`.
    """
    rows = [
        [name.replace("_", " "), share(rate), str(rate["count"])]
        for name, rate in ifeval["scores"].items()
    ]
    data, strict = ifeval["dataset"], ifeval["scores"]["prompt_strict"]
    place = f"`{data['repository']}` at {data['revision']}, " if "repository" in data else ""
    return {
        "rate": f"{share(strict)} of {strict['count']}",
        "table": table(["score", "this release", "n"], rows),
        "harness": f"{ifeval['harness']['name']} {ifeval['harness']['version']}",
        "prompts": f"{place}`{data['file']}`, sha256 `{data['sha256']}`",
        "how": _how(ifeval, f"{data['prompts']} prompts"),
        "answers": ifeval["answers"],
    }


def ifeval_scores(ifeval: Record) -> ScoreGroup:
    """IFEval's four scores."""
    return "IFEval", [(name.replace("_", " "), rate) for name, rate in ifeval["scores"].items()]


def bfcl_values(bfcl: Record) -> dict[str, Any]:
    """What the template says of the function-calling leaderboard.

    Args:
        bfcl: The content of `bfcl.json`.
    """
    left_out = sum(len(category["left_out"]) for category in bfcl["categories"])
    rows = [
        [
            category["name"].replace("_", " "),
            f"{category['passed']} of {category['cases']}",
            share(category["accuracy"]),
        ]
        for category in bfcl["categories"]
    ]
    limit = "all cases" if bfcl["limit"] is None else f"the first {bfcl['limit']} of each category"
    if left_out:
        limit += f" that fit the context ({left_out} do not)"
    return {
        "rate": bfcl_rate(bfcl),
        "table": table(["category", "passed", "accuracy"], rows),
        "harness": f"{bfcl['harness']['name']} {bfcl['harness']['version']}",
        "how": _how(bfcl, limit),
    }


def bfcl_rate(bfcl: Record) -> str:
    """How many cases of all categories are right, and the rate."""
    passed, cases = (sum(row[key] for row in bfcl["categories"]) for key in ("passed", "cases"))
    return f"{passed} of {cases} cases, {share(proportion(passed, cases).record())}"


def bfcl_scores(bfcl: Record) -> ScoreGroup:
    """The accuracy of each category."""
    categories = bfcl["categories"]
    return "BFCL", [
        (category["name"].replace("_", " "), category["accuracy"]) for category in categories
    ]


def images_values(images: Record) -> dict[str, Any]:
    """What the template says of questions about pictures.

    Args:
        images: The content of `images.json`.
    """
    release, fixed = (answered(images, name) for name in ("release", "fixed"))
    rows = [
        [
            own["name"].replace("_", " "),
            f"{own['passed']} of {own['questions']}",
            share(own["rate"]),
            share(before["rate"]),
            change(in_points(row["difference"]), 1),
        ]
        for own, before, row in zip(
            release["sets"], fixed["sets"], images["differences"], strict=True
        )
    ]
    headings = ["questions", "right", MODELS["release"], MODELS["fixed"], "difference in points"]
    return {
        "rate": f"{rows[-1][1]}, {rows[-1][2]}",
        "reference": rows[-1][3],
        "difference": rows[-1][4],
        "table": table(headings, rows),
        "speculative_tokens": release["speculative_tokens"],
        "max_tokens": images["max_tokens"],
        "file": images["questions"]["file"],
        "sha256": images["questions"]["sha256"],
    }


def images_scores(images: Record) -> ScoreGroup:
    """How often the release is right, by kind of question."""
    sets = answered(images, "release")["sets"]
    return "pictures", [(row["name"].replace("_", " "), row["rate"]) for row in sets]


def answered(images: Record, model: str) -> Record:
    """What one of the models of `images.json` said."""
    return next(each for each in images["models"] if each["name"] == model)


def in_points(estimate: Record) -> Record:
    """A difference of two shares in percentage points."""
    ends = {key: estimate[key] for key in ("value", "low", "high")}
    return estimate | {key: None if end is None else 100 * end for key, end in ends.items()}


def _how(result: Record, asked: str) -> str:
    return f"{asked}, {mode(result['thinking'])}, answers of at most {result['max_tokens']} tokens"
