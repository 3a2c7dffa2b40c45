"""Sealed releases of the embedded pair: its own conversion, and measurements as they look."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import measured
from conversion import ENVIRONMENT, Conversion
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.release_layout import RELEASE
from scion.artifacts.software import Software
from scion.engines.config import PICO_LAUNCH
from scion.report.config import Card
from scion.stages.render_card import CardSettings, render_card
from scion.stages.seal_release import seal_release

# A commit with an address, as a published one has.
MADE_BY = Software("0.1.0", commit="c0ffee" * 6 + "c0ff", url="https://github.com/owner/scion")
TEMPLATE = Path(__file__).parent.parent / "workflow/templates/card.md.jinja"
SECTIONS = sorted((TEMPLATE.parent / "sections").iterdir())
_STAGES = (
    *("fetch_source", "fetch_donor", "lint_source", "fix_keys", "extract_text"),
    *("quantize_nvfp4", "verify_release"),
)


def converted(conversion: Conversion) -> dict[str, Artifact]:
    """What the conversion leaves for the card, by stage."""
    return {stage: getattr(conversion, stage) for stage in _STAGES}


def rendered(
    conversion: Conversion,
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
    made_so = {**converted(conversion), **beside}
    evidence = made_so | measured.artifacts(content, release=conversion.graft_mtp, folder=folder)
    launches, made_by = card.pop("launches", (PICO_LAUNCH,)), card.pop("made_by", MADE_BY)
    made = render_card(
        release=conversion.graft_mtp,
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


def sealed(
    conversion: Conversion,
    folder: Path,
    content: dict[str, Any],
    *,
    beside: Mapping[str, Artifact] = MappingProxyType({}),
) -> Path:
    """The release folder of a conversion that was measured so; `folder` gets its artifacts."""
    card, evidence = rendered(conversion, folder, content, beside=beside)
    seal_release(
        release=conversion.graft_mtp,
        card=card,
        evidence=evidence,
        output=Output.at(folder / "seal_release"),
        environment=ENVIRONMENT,
    )
    return folder / RELEASE
