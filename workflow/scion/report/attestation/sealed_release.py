"""What attestations are derived from: the manifests of a sealed release, and nothing else."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scion.artifacts.release_layout import (
    ATTESTING_FILES,
    SUMS,
    TENSORS,
    Entry,
    Manifest,
    weights_stage,
)
from scion.artifacts.software import FACT, Software
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.common.errors import ScionError

SEALED_AT = "sealed_at"
"""The fact of a seal that says when it was made; attestations have to name a time."""


@dataclass(frozen=True)
class SealedRelease:
    """A release as its manifests describe it.

    Attributes:
        files: `size` and `sha256` by name of the files that are attested: all but the attestations
            themselves, SHA256SUMS and the tensor table, which are written after them.
        manifests: By stage, the seal's own not among them.
        config: The whole configuration of the release, but for where its artifacts are kept.
        made_by: The Scion that rendered the card and sealed the release.
        sealed_at: When, in UTC.
    """

    files: Mapping[str, Entry]
    manifests: Mapping[str, Manifest]
    config: Mapping[str, Any]
    made_by: Software
    sealed_at: datetime

    @classmethod
    def read(cls, sealed: Manifest, manifests: Mapping[str, Manifest]) -> "SealedRelease":
        """What the seal of a release and the manifests in `provenance/` say.

        Raises:
            KeyError, TypeError, ValueError: The seal says nothing of attestations, or has another
                form.
        """
        return cls(
            files=attested(sealed["files"]),
            manifests=manifests,
            config=sealed["settings"]["config"],
            made_by=Software(**sealed["facts"][FACT]),
            sealed_at=datetime.fromisoformat(sealed["facts"][SEALED_AT]),
        )

    @property
    def title(self) -> str:
        """Its name on the card."""
        return self.config["card"]["title"]

    @property
    def builder(self) -> str:
        """URI of who ran the workflow."""
        return self.config["attestations"]["builder"]

    @property
    def weights(self) -> Manifest:
        """The manifest of the stage that made its checkpoint."""
        return self.manifests[weights_stage(self.manifests)]

    @property
    def shards(self) -> dict[str, Entry]:
        """Its files of weights."""
        return {name: self.files[name] for name in self.files if name.endswith(".safetensors")}

    def origins(self) -> dict[str, tuple[str, str | None]]:
        """By role, source and donor: the location and, of a repository of the hub, its commit."""
        named = {"source": self.config["source"], "donor": self.config["donor"]}
        return {role: _pinned(location) for role, location in named.items() if location is not None}

    def plain_files(self) -> dict[str, str]:
        """SHA-256 by name of the plain files that stages have read, such as data sets."""
        return {
            f"{stage}/{name}": made["sha256"]
            for stage, manifest in self.manifests.items()
            if stage not in _FETCHING
            for name, made in manifest["made_from"].items()
            if "file" in made
        }


_FETCHING = ("fetch_source", "fetch_base", "fetch_donor")


def attested(files: Mapping[str, Entry]) -> dict[str, Entry]:
    """The files of a release that its attestations name, of all of them."""
    besides = {*ATTESTING_FILES, SUMS, TENSORS}
    return {name: files[name] for name in sorted(files) if name not in besides}


def sealing_time() -> datetime:
    """Now, to a second, in UTC; or what SOURCE_DATE_EPOCH says, so that a seal can be repeated.

    Raises:
        ScionError: SOURCE_DATE_EPOCH is no number of seconds.
    """
    # https://reproducible-builds.org/specs/source-date-epoch/
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None:
        try:
            return datetime.fromtimestamp(int(epoch), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise ScionError(
                "the time of the seal is no time",
                where="the variable SOURCE_DATE_EPOCH",
                expected="seconds since 1970",
                found=repr(epoch),
                hint="unset it: then the seal names the time of the run",
            ) from error
    return datetime.now(UTC).replace(microsecond=0)


def _pinned(location: str) -> tuple[str, str | None]:
    found = parse_location(location)
    return location, found.revision if isinstance(found, HubRepository) else None
