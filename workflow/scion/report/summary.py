"""What a finished run made, in a few lines for the terminal."""

from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.checkpoint.shards import read_json
from scion.common.text import Record, change, drafts, hardware, number, ratio, share


def summary(results: Path) -> list[str]:
    """Lines that name the release folder and its digests, and tell what was measured.

    A number's 95 % interval stands in brackets behind it.

    Args:
        results: The folder of a release's artifacts, such as `results/<release>`.

    Raises:
        ScionError: The release is not finished.
    """
    release = Artifact.open(results / "release")

    def result(name: str) -> Any:
        """A result file, out of the release: what another configuration left beside it is old."""
        path = release.folder / "provenance/results" / name
        return read_json(path) if f"provenance/results/{name}" in release.files else None

    serving = result("serving.json")
    lines = [
        f"release:     {release.folder}",
        f"root:        {release.root}",
        f"weights:     {release.facts['weights']}",
        f"agent tasks: {_tasks(result('agent_tasks.json'), serving)}",
    ]
    lines += [f"{_name(run)}{_acceptance(run)}" for run in serving["runs"] if run["acceptance"]]
    lines += [
        f"{_name(run)}{line}"
        for run in serving["runs"]
        if run["speculative_tokens"]
        for line in _speed(run)
    ]
    lines += _quality(result("quality.json"))
    ifeval, bfcl = result("ifeval.json"), result("bfcl.json")
    if ifeval is not None:
        shown = [f"{key.replace('_', ' ')} {share(one)}" for key, one in ifeval["scores"].items()]
        lines.append(f"IFEval:      {'; '.join(shown)}")
    if bfcl is not None:
        shown = [f"{one['name']} {one['passed']}/{one['cases']}" for one in bfcl["categories"]]
        lines.append(f"BFCL:        {'; '.join(shown)}")
    return lines


def _tasks(tasks: Record, serving: Record) -> str:
    first = [task["results"][0]["passed"] for task in tasks["tasks"]]
    engine = f"{serving['engine']['name']} {serving['engine']['version']}"
    return (
        f"{sum(first)}/{len(first)}, all cases {tasks['passed']}/{tasks['total']} = "
        f"{share(tasks['rate'])}, on {engine} ({hardware(serving['hardware'])})"
    )


def _name(run: Record) -> str:
    return f"{drafts(run['speculative_tokens'])}:".ljust(13)


def _acceptance(run: Record) -> str:
    counts = next(row for row in run["acceptance"] if row["set"] == "all")
    positions = ", ".join(share(one) for one in counts["per_position"])
    same = run["same_text_as_baseline"]
    text = f"; text as without MTP {same['identical']}/{same['total']}" if same else ""
    return (
        f"accepted by position {positions}; {number(counts['mean_length'], 2)} of "
        f"{run['speculative_tokens'] + 1} tokens a step{text}"
    )


def _speed(run: Record) -> list[str]:
    """The longest single decode, beside no MTP."""
    single = [one for one in run["speed"] if one["parallel"] == 1]
    if not single:
        return []
    longest = max(single, key=lambda one: one["tokens"])
    beside = longest["ratio_to_baseline"]
    return [
        f"{number(longest['tokens_per_second'])} tokens a second over {longest['tokens']}"
        + (f", {ratio(beside)} no MTP" if beside else "")
    ]


def _quality(quality: Record) -> list[str]:
    parts = {one["name"]: one["parts"] for one in quality["models"] if one["parts"]}
    part = next(part for part, scored in parts["release"].items() if scored)
    own, before = parts["release"][part], parts[quality["reference"]][part]
    return [
        f"perplexity:  {number(own['perplexity'], 4)}, bf16 {number(before['perplexity'], 4)}; "
        f"loss {change(own['loss_change'])} over {own['tokens']} held-out tokens ({part})"
    ]
