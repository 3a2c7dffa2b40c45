"""What a finished run made, in a few lines for the terminal."""

from pathlib import Path
from typing import Any

from scion.artifact import Artifact
from scion.checkpoint import read_json


def summary(results: Path) -> list[str]:
    """Lines that name the release folder, its digests, the tasks and the MTP acceptance.

    Args:
        results: The folder of a release's artifacts, such as `results/<release>`.

    Raises:
        ScionError: The release is not finished.
    """
    release = Artifact.open(results / "release")
    tasks = read_json(results / "run_agent_tasks/agent_tasks.json")
    serving = read_json(results / "measure_serving/serving.json")
    perplexity = read_json(results / "evaluate_perplexity/perplexity.json")
    engine = f"{serving['engine']['name']} {serving['engine']['version']}"
    lines = [
        f"release:     {release.folder}",
        f"root:        {release.root}",
        f"weights:     {release.facts['weights']}",
        f"agent tasks: {tasks['passed']}/{tasks['total']} on {engine} ({_device(serving)})",
    ]
    lines += [_acceptance(run) for run in serving["runs"] if run["acceptance"]]
    return [*lines, _perplexity(perplexity)]


def _device(serving: dict[str, Any]) -> str:
    hardware = serving["hardware"]
    return f"{hardware['count']} x {hardware['name']}" if hardware["name"] else "named server"


def _acceptance(run: dict[str, Any]) -> str:
    counts = run["acceptance"]["replies"]
    positions = ", ".join(f"{100 * rate:.1f} %" for rate in counts["per_position"])
    drafted = run["speculative_tokens"]
    same = run["same_text_as_baseline"]
    text = f"; text as without MTP {same['identical']}/{same['total']}" if same else ""
    return (
        f"MTP n={drafted}:     accepted by position {positions}; "
        f"mean length {counts['mean_length']:.2f} of {drafted + 1}{text}"
    )


def _perplexity(result: dict[str, Any]) -> str:
    source, release = result["source"]["assistant"], result["release"]["assistant"]
    return (
        f"perplexity:  {release['perplexity']:.4f} (source {source['perplexity']:.4f}) "
        f"over {release['tokens']} held-out assistant tokens"
    )
