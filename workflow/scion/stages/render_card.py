"""Write the model card: README.md with hub metadata, in which every number was measured.

The template (`workflow/templates/card.md.jinja`) sees only the manifests and result files of the
other stages and the `card` section of the configuration. A value that is missing is an error
(jinja's StrictUndefined), never an empty cell.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from scion import launches
from scion.agent_judge import read_tasks
from scion.artifact import Artifact, Draft, remake
from scion.checkpoint import read_json
from scion.config import Card, Section
from scion.errors import ScionError
from scion.nvfp4_config import BLOCK
from scion.stage_cli import add_settings, read_settings, run_stage, stage_parser
from scion.stages.seal_release import CARD, add_evidence, open_evidence

# The task whose request the card shows as a command.
CURL_TASK = "parallel_tool_calls"


class Settings(Section):
    """The section of the configuration that this stage reads."""

    card: Card


def render_card(
    *,
    release: Artifact,
    evidence: Mapping[str, Artifact],
    template: Path,
    tasks: Path,
    card: Card,
    output: Path,
    environment: str,
) -> Artifact:
    """Render the card of a verified and measured release.

    Args:
        release: The grafted checkpoint.
        evidence: The artifacts of all stages that the card quotes, by stage.
        template: The jinja template.
        tasks: YAML of the agent tasks, for the example request.
        card: What can't be measured: names, licence, launches.
        output: Folder of the artifact.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The template asks for something that no stage recorded.
    """

    def build(draft: Draft) -> None:
        values = _values(release, evidence, card) | {"curl_body": _curl_body(tasks, card)}
        (draft.folder / CARD).write_text(_render(template, values))

    return remake(
        output,
        stage="render_card",
        inputs={**evidence, "graft_mtp": release, "template": template, "tasks": tasks},
        settings={"card": card.model_dump(mode="json")},
        environment=environment,
        build=build,
    )


def _render(template: Path, values: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        return environment.from_string(template.read_text()).render(**values)
    except jinja2.TemplateError as error:
        raise ScionError(
            "the card's template can't be rendered",
            where=f"{template}, line {getattr(error, 'lineno', None) or 'unknown'}",
            expected="only values that the stages record",
            found=error,
            hint="compare the template with workflow/scion/stages/render_card.py",
        ) from error


def _values(release: Artifact, evidence: Mapping[str, Artifact], card: Card) -> dict[str, Any]:
    text_only = evidence["extract_text"].facts["text_only"]
    serving = read_json(evidence["measure_serving"].folder / "serving.json")
    steps = {**evidence, "graft_mtp": release}
    return {
        "card": card,
        "metadata": _metadata(card),
        "block": BLOCK,
        "size": _size,
        "text_only": text_only,
        "source": evidence["fetch_source"].facts,
        "fix": evidence["fix_keys"].facts,
        "text": evidence["extract_text"].facts,
        "quantize": evidence["quantize_nvfp4"].facts,
        "graft": release.facts,
        "verify": evidence["verify_release"].facts,
        "weights_root": release.root,
        "steps": [{"name": name, "root": made.root} for name, made in steps.items()],
        "launches": [
            {
                "title": launch.title,
                "command": launches.command(launch, card.repository, text_only=text_only),
                "flags": launches.flags(launch, text_only=text_only),
            }
            for launch in card.launches
        ],
        "engine": serving["engine"],
        "hardware": _hardware(serving["hardware"]),
        "cpu": serving["hardware"]["kind"] == "cpu",
        "prompts": serving["prompts"]["names"],
        "tasks": read_json(evidence["run_agent_tasks"].folder / "agent_tasks.json"),
        **_acceptance(serving["runs"]),
        "speed": _speed(serving["runs"]),
        "perplexity": _perplexity(evidence["evaluate_perplexity"].folder / "perplexity.json"),
    }


def _metadata(card: Card) -> str:
    """The YAML block that the hub reads."""
    data = ModelCardData(
        license=card.license,
        base_model=card.parent,
        base_model_relation="quantized",
        library_name="vllm",
        pipeline_tag="text-generation",
        tags=list(card.tags),
    )
    return data.to_yaml()


def _size(count: int) -> str:
    """Bytes in the unit that people read, powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def _hardware(hardware: Mapping[str, Any]) -> str:
    if hardware["name"] is None:
        return "a server named by its address"
    if hardware["kind"] == "cpu":
        return f"{hardware['count']} cores of {hardware['name']}"
    return f"{hardware['count']} × {hardware['name']}"


def _acceptance(runs: list[dict[str, Any]]) -> dict[str, Any]:
    drafted = [run for run in runs if run["acceptance"] is not None]
    most = max((run["speculative_tokens"] for run in drafted), default=0)
    rows: list[dict[str, Any]] = []
    for run in drafted:
        counts = run["acceptance"]["replies"]
        cells = [f"{100 * rate:.1f} %" for rate in counts["per_position"]]
        cells += [""] * (most - len(cells))
        rows.append({"n": run["speculative_tokens"], "cells": cells, **counts})
    compared = [run for run in runs if run["same_text_as_baseline"] is not None]
    same_text = [
        {
            "n": run["speculative_tokens"],
            **run["same_text_as_baseline"],
            "first": min(
                (item["first_difference"] for item in run["same_text_as_baseline"]["differences"]),
                default=None,
            ),
        }
        for run in compared
    ]
    return {"positions": range(1, most + 1), "acceptance": rows, "same_text": same_text}


def _speed(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens per second by decode and launch, with the ratio to the unspeculated launch."""
    by_launch = {
        run["speculative_tokens"]: {
            (decode["tokens"], decode["parallel"]): decode["tokens_per_second"]
            for decode in run["decodes"]
        }
        for run in runs
    }
    baseline = by_launch.get(0, {})
    rows: list[dict[str, Any]] = []
    for key in next(iter(by_launch.values())):
        cells: list[str] = []
        for drafted, speeds in by_launch.items():
            ratio = f" ({speeds[key] / baseline[key]:.2f}×)" if drafted and key in baseline else ""
            cells.append(f"{speeds[key]:.1f}{ratio}")
        rows.append({"tokens": key[0], "parallel": key[1], "cells": cells})
    return {"columns": list(by_launch), "rows": rows}


def _perplexity(path: Path) -> dict[str, Any]:
    result = read_json(path)
    names = {"source": "source, bf16", "release": "this release"}
    scopes = {"assistant": "assistant tokens", "all": "all tokens"}
    rows = [
        {"model": names[model], "scope": scopes[scope], **result[model][scope]}
        for scope in scopes
        for model in names
    ]
    change = result["difference"]["assistant"]
    note = (
        f"{result['dataset']['chats']} chats that neither training nor calibration saw. On "
        f"assistant tokens the release's loss is {change['loss']:+.4f} ± "
        f"{change['standard_error']:.4f} nats a token (paired over chats, standard error)."
    )
    return {"rows": rows, "note": note}


def _curl_body(tasks: Path, card: Card) -> str:
    """The request of the parallel task as JSON that can stand in single quotes of a shell."""
    file = read_tasks(tasks)
    task = next(task for task in file.tasks if task.name == CURL_TASK)
    body = {
        "model": card.repository,
        "messages": task.messages,
        "tools": file.tools_of(task),
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "max_tokens": task.max_tokens,
    }
    return json.dumps(body, indent=2, ensure_ascii=False).replace("'", "'\\''")


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"release": "manifest of graft_mtp"})
    add_evidence(parser)
    parser.add_argument("--template", required=True, type=Path, help="jinja template of the card")
    parser.add_argument("--tasks", required=True, type=Path, help="YAML of the agent tasks")
    add_settings(parser, Settings)
    args = parser.parse_args()
    return run_stage(
        lambda: render_card(
            release=Artifact.open(args.release),
            evidence=open_evidence(args.evidence),
            template=args.template,
            tasks=args.tasks,
            card=read_settings(args.settings, Settings).card,
            output=args.output.parent,
            environment=args.environment,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
