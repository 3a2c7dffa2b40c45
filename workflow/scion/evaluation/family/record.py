"""What `family.json` says of each release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.checkpoint.shards import CONFIG, read_json
from scion.evaluation.agent.config import RECORD as AGENT_TASKS
from scion.evaluation.family.config import FamilyMember
from scion.evaluation.family.rounds import Timed
from scion.evaluation.quality.config import RECORD as QUALITY
from scion.evaluation.serving.acceptance import paired_acceptance
from scion.evaluation.serving.config import RECORD as SERVING
from scion.evaluation.serving.speed import speed_records
from scion.formats.spellings import declared_spelling


@dataclass(frozen=True)
class Member:
    """A release of the family, and what was measured of it alone.

    Attributes:
        about: As the configuration has it.
        release: The checkpoint.
        serving: The artifact measure_serving.
        agent_tasks: The artifact run_agent_tasks.
        quality: The artifact evaluate_quality.
    """

    about: FamilyMember
    release: Artifact
    serving: Artifact
    agent_tasks: Artifact
    quality: Artifact


def member_record(
    member: Member, timed: Timed, baseline: tuple[Member, Timed] | None
) -> dict[str, Any]:
    """A release as `family.json` holds it.

    Args:
        member: The release.
        timed: Its decodes in the family's rounds.
        baseline: The release that it stands beside, and the decodes of that; None for that itself.
    """
    launch, config = member.about.launch, read_json(member.release.folder / CONFIG)
    spelling = declared_spelling(config)
    tasks = read_json(member.agent_tasks.folder / AGENT_TASKS.name)
    return {
        "release": member.about.name,
        "repository": member.about.repository,
        "weights": member.release.content,
        "bytes": sum(entry["size"] for entry in member.release.files.values()),
        "algorithm": config["quantization_config"].get("quant_algo", "NVFP4"),
        "spelling": None if spelling is None else spelling.name,
        "launch": launch.name,
        "speculative_tokens": launch.speculative_tokens,
        "speed": speed_records(timed, baseline[1] if baseline else None),
        "acceptance": next(
            (row for row in _drafted(member, "acceptance") if row["set"] == "all"), None
        ),
        "acceptance_beside_baseline": _beside(member, baseline[0]) if baseline else None,
        "agent_tasks": {key: tasks[key] for key in ("passed", "total", "rate")},
        "quality": _quality(read_json(member.quality.folder / QUALITY.name)),
    }


def _drafted(member: Member, key: str) -> Sequence[Mapping[str, Any]]:
    """What was recorded with as many drafts as the release is served with; nothing without."""
    serving = read_json(member.serving.folder / SERVING.name)
    drafted = member.about.launch.speculative_tokens
    runs = [run for run in serving["runs"] if run["speculative_tokens"] == drafted]
    return next((run[key] for run in runs if run[key]), [])


def _beside(member: Member, baseline: Member) -> list[dict[str, Any]] | None:
    """How much more is accepted than of the baseline, prompt by prompt; None unless both draft."""
    own, other = (_drafted(each, "replies") for each in (member, baseline))
    return paired_acceptance(own, other) if own and other else None


def _quality(quality: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of the release and of what they are beside."""
    shown = {"release", quality["reference"]}
    return {
        "reference": quality["reference"],
        "models": [model for model in quality["models"] if model["name"] in shown],
    }
