"""Configuration of attestations and signature."""

from pathlib import Path

from pydantic import Field

from scion.common.errors import ScionError
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


def require_public_key(path: str) -> None:
    """Refuse what can be no public key, by its text alone; whoever signs tries the key itself.

    Args:
        path: As `attestations.public_key` names it.

    Raises:
        ScionError: There is no such file, or no public key in it.
    """
    try:
        pem = Path(path).read_bytes()
        found = "a private key" if b"PRIVATE KEY-----" in pem else "no such text"
    except OSError as error:
        pem, found = b"", str(error.strerror)
    if b"PUBLIC KEY-----" not in pem or b"PRIVATE KEY-----" in pem:
        raise ScionError(
            "attestations.public_key: it is no public key",
            where=path,
            expected="a PEM file that begins with -----BEGIN PUBLIC KEY-----",
            found=found,
            hint="openssl ec -in private.pem -pubout -out public.pem",
        )
