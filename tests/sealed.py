"""Sealed releases: conversions of the embedded pair, and measurements as they look."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import measured
from conversion import ENVIRONMENT, Conversion
from lock import ROOT
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.release_layout import RELEASE, weights_stage
from scion.artifacts.software import Software
from scion.audit.attested import RECORDED_SETTINGS
from scion.checkpoint.config import Mtp
from scion.config import Config
from scion.engines.config import PICO_LAUNCH
from scion.evaluation.serving.config import Measurement
from scion.quantization.variants_config import Comparison
from scion.report.config import Card
from scion.stages.render_card import CardSettings, render_card
from scion.stages.seal_release import SealSettings, seal_release

# A commit with an address, as a published one has.
MADE_BY = Software("0.1.0", commit="c0ffee" * 6 + "c0ff", url="https://github.com/owner/scion")
TEMPLATE = Path(__file__).parent.parent / "workflow/templates/card.md.jinja"
SECTIONS = sorted((TEMPLATE.parent / "sections").iterdir())
_STAGES = (
    *("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text"),
    *("quantize_nvfp4", "graft_mtp", "sample_replies", "heal_mtp", "verify_release"),
)


Made = Conversion | Mapping[str, Artifact]
"""The artifacts of the conversion stages, by stage; without a donor there is no fetch_donor."""


def by_stage(made: Made) -> Mapping[str, Artifact]:
    """All that a conversion has made."""
    if not isinstance(made, Conversion):
        return made
    stages = [field.name for field in fields(made) if field.name != "folder"]
    return {stage: getattr(made, stage) for stage in stages}


def whole(made: Made) -> Artifact:
    """The release's checkpoint."""
    artifacts = by_stage(made)
    return artifacts[weights_stage(artifacts)]


def converted(made: Made) -> dict[str, Artifact]:
    """What it leaves for the card beside the release, by stage."""
    artifacts, release = by_stage(made), whole(made)
    stages = [stage for stage in _STAGES if stage in artifacts and stage != release.stage]
    return {stage: artifacts[stage] for stage in stages}


def rendered(
    conversion: Made,
    folder: Path,
    content: dict[str, Any],
    *,
    beside: Mapping[str, Artifact] = MappingProxyType({}),
    **card: Any,
) -> tuple[Artifact, dict[str, Artifact]]:
    """The card of a conversion that was measured so, and all that it quotes.

    Args:
        conversion: The artifacts.
        folder: Where the card and the results go.
        content: The records, by stage.
        beside: Stages that not every release has.
        card: Of the section of that name; and `launches`, `made_by`.
    """
    release = whole(conversion)
    made_so = {**converted(conversion), **beside}
    evidence = made_so | measured.artifacts(content, release=release, folder=folder)
    launches, made_by = card.pop("launches", (PICO_LAUNCH,)), card.pop("made_by", MADE_BY)
    made = render_card(
        release=release,
        evidence=evidence,
        template=TEMPLATE,
        sections=SECTIONS,
        tasks=measured.TASKS,
        settings=CardSettings(card=Card(**card), launches=launches),
        made_by=made_by,
        output=Output.at(folder / "render_card"),
        environment=ENVIRONMENT,
    )
    return made, evidence


def _drafting(origin: str) -> dict[str, Any]:
    """What a configuration says of drafts: a release without a head has none."""
    if origin != "none":
        return {}
    return {
        "launches": (PICO_LAUNCH.model_copy(update={"speculative_tokens": 0}),),
        "measurement": Measurement(speculative_tokens=(0,)),
        "comparison": Comparison(acceptance_prompts=None),
    }


def _agree(told: dict[str, Any], artifacts: Mapping[str, Artifact]) -> None:
    """Let a configuration ask for the stages that there are, and say what they were given."""
    told["healing"]["enabled"] = "heal_mtp" in artifacts
    for (stage, setting), (*sections, key) in RECORDED_SETTINGS.items():
        settings = artifacts[stage].manifest["settings"] if stage in artifacts else {}
        if setting in settings:
            section = told
            for name in sections:
                section = section[name]
            section[key] = settings[setting]


def sealed(
    conversion: Made,
    folder: Path,
    content: dict[str, Any],
    *,
    beside: Mapping[str, Artifact] = MappingProxyType({}),
    attested: bool = True,
    **card: Any,
) -> Path:
    """The release folder of a conversion that was measured so; `folder` gets its artifacts."""
    made, evidence = rendered(conversion, folder, content, beside=beside, **card)
    named: dict[str, Any] = {key: card[key] for key in card.keys() & Card.model_fields}
    if (origin := whole(conversion).facts["mtp_origin"]) != "donor":
        named |= {"base": None}
        config = Config(card=Card(**named), donor=None, mtp=Mtp(origin=origin), **_drafting(origin))
    else:
        config = Config(card=Card(**named))
    told = config.model_dump(mode="json", exclude={"store"})
    _agree(told, {**evidence, made.stage: made, whole(conversion).stage: whole(conversion)})
    seal_release(
        release=whole(conversion),
        card=made,
        evidence=evidence,
        output=Output.at(folder / "seal_release"),
        environment=ENVIRONMENT,
        settings=SealSettings(config=told) if attested else SealSettings(),
        workflow=ROOT / "Snakefile",
    )
    return folder / RELEASE
