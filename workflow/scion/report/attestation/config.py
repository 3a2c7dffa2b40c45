"""Configuration of attestations and signature."""

from pydantic import Field

from scion.common.section import Section

TAG = "reproducible"
"""The hub's tag of releases with a `reproduce/reproduce.json`."""


class Attestations(Section):
    """What a sealed release says of itself in the forms that others' tools read."""

    enabled: bool = Field(
        default=True,
        description="write them: SLSA provenance, a CycloneDX ML-BOM, an RO-Crate and "
        "reproduce/reproduce.json, with the tag reproducible on the card",
    )
    builder: str = Field(
        default="urn:scion:builder:publisher",
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$",
        max_length=400,
        description="URI of the platform that runs the workflow, SLSA's builder.id; the default "
        "says that the publisher ran it, and vouches for no more",
    )
    public_key: str | None = Field(
        default=None,
        description="PEM file of an elliptic curve's public key: the release is signed with its "
        "private half, the file that the variable SCION_SIGNING_KEY names; null: not signed",
    )
