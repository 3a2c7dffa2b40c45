"""Releases whose MTP head was trained and then quantized, made from a conversion in seconds."""

from collections.abc import Mapping
from pathlib import Path

from conversion import ENVIRONMENT, Conversion, Pico
from healing import QUICK, replies_artifact, short_texts
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.formats.stored_modules import HeadScheme
from scion.lint.config import Lint
from scion.stages.heal_mtp import heal_mtp
from scion.stages.quantize_mtp import quantize_mtp
from scion.stages.verify_release import verify_release


def trained(grafted: Artifact, pico: Pico, folder: Path) -> dict[str, Artifact]:
    """`sample_replies` and `heal_mtp` of a release, trained through the rounding to NVFP4."""
    replies = replies_artifact(grafted, short_texts(pico), folder / "sample_replies")
    healed = heal_mtp(
        release=grafted,
        replies=replies,
        training=QUICK,
        scheme="nvfp4",
        output=Output.at(folder / "heal_mtp"),
        environment=ENVIRONMENT,
    )
    return {"sample_replies": replies, "heal_mtp": healed}


def quantized(healing: Mapping[str, Artifact], folder: Path, scheme: HeadScheme) -> Artifact:
    """The release with its head in FP8 or NVFP4, of what `trained` has made."""
    return quantize_mtp(
        release=healing["heal_mtp"],
        scheme=scheme,
        output=Output.at(folder / "quantize_mtp"),
        environment=ENVIRONMENT,
    )


def verified_of(
    conversion: Conversion, release: Artifact, healed: Artifact | None, folder: Path
) -> Artifact:
    """What `verify_release` says of it."""
    return verify_release(
        release=release,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        healed=healed,
        output=Output.at(folder / "verify_release"),
        settings=Lint(),
        environment=ENVIRONMENT,
    )
