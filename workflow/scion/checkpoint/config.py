"""Configuration of the checkpoints that a release is made from."""

from typing import Literal

from pydantic import Field

from scion.checkpoint.own_head import OwnHead
from scion.common.section import Section
from scion.formats.stored_modules import HeadScheme


class Mtp(Section):
    """Where the release's MTP head comes from, and how it is stored."""

    origin: Literal["donor", "source", "none"] = Field(
        default="donor",
        description="donor: grafted from `donor`; source: the source's own, kept as it is; none: a "
        "release without, which is served and measured without drafts",
    )
    replaces_own: bool = Field(
        default=False,
        description="a head that the source has of its own is given up, for the donor's or for "
        "none; false refuses such a source",
    )
    trusted_donor: str | None = Field(
        default=None,
        description="the donor's location once more: it is taken although its weights do not look "
        "like those of the source's base; null: only kin is grafted",
    )

    quantize: HeadScheme = Field(
        default="none",
        description="what the matrices of the head's decoder layer are stored in: none leaves them "
        "bf16; the head of a 27B, 850 MB, becomes 477 MB with fp8 and 314 with nvfp4; the scales "
        "of their inputs come from healing, which has to be enabled",
    )

    @property
    def own_head(self) -> OwnHead:
        """What becomes of a head that the source has of its own."""
        if self.origin == "source":
            return "kept"
        return "removed" if self.replaces_own else "absent"

    def faults(self, donor: str | None) -> list[str]:
        """What does not go together, in the words of the configuration's keys.

        Args:
            donor: The configuration's `donor`.
        """
        found = list[str]()
        if self.origin == "donor" and donor is None:
            found.append("donor: none is named, and mtp.origin is donor; name the base model")
        if self.origin != "donor" and donor is not None:
            found.append(
                f"donor: {donor} is named, and mtp.origin is {self.origin}: nothing would be taken "
                "of it; set `donor: null`, or `origin: donor`"
            )
        if self.origin == "source" and self.replaces_own:
            found.append("mtp.replaces_own: mtp.origin is source, which keeps that head")
        if self.trusted_donor is not None and self.trusted_donor != donor:
            found.append(
                f"mtp.trusted_donor: {self.trusted_donor} is not the donor, {donor or 'null'}"
            )
        return found
