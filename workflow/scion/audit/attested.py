"""What a release says of itself in others' forms, and who has signed it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scion.artifacts.file_tree import FileTree, FolderTree, read_object, read_whole
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_layout import (
    PROVENANCE,
    RENDERED,
    SIGNATURE,
    Manifest,
    is_attested,
    sealed_stages,
)
from scion.audit.verdict import Fault, PartVerdict, ProofLevel
from scion.common.errors import ScionError
from scion.common.files import to_json
from scion.common.text import printable
from scion.formats.spellings import DEFAULT_SPELLING

if TYPE_CHECKING:
    # Import libraries of the extra `attest`.
    from model_signing.verifying import Config

    from scion.report.attestation.sealed_release import SealedRelease

ATTESTED, SIGNED = "attestations", "signature"
# Differences that are told of one file.
_SHOWN = 100


def audit_attestations(tree: FileTree) -> PartVerdict | None:
    """Derive each attestation of a release again from its manifests; None where it has none.

    Args:
        tree: The files of a release whose manifest can be used.

    Raises:
        MissingExtraError: The libraries that write these forms are not installed.
    """
    sealed = read_object(tree, MANIFEST)
    if not is_attested(sealed):
        return None
    # Outside of what is caught below: one that is not installed is told as that.
    from scion.report.attestation.attestations import ATTESTATIONS, differences
    from scion.report.attestation.sealed_release import SealedRelease

    try:
        manifests = {
            stage: read_object(tree, f"{PROVENANCE}/{stage}.json")
            for stage in sealed_stages(sealed)
        }
        release = SealedRelease.read(sealed, manifests)
        derived = {name: derive(release) for name, derive in ATTESTATIONS.items()}
        others = [*_page_faults(tree, sealed, manifests), *_config_faults(release)]
    except ImportError:
        raise
    # Manifests of others hold what they like where attestations look for names and times, and the
    # libraries that write these forms have errors of their own for it.
    except Exception as error:
        fault = Fault(MANIFEST, "no attestation follows from it", "a seal's", printable(error))
        return PartVerdict.of(ATTESTED, "can't be derived", count=0, faults=[fault])
    faults: list[Fault] = []
    for name, expected in derived.items():
        try:
            found = read_object(tree, name)
        except ScionError as error:
            faults.append(Fault(name, error.problem, error.expected, error.found))
            continue
        other = [
            Fault(f"{name}: {place}", "is not what the manifests say", wanted, there)
            for place, wanted, there in islice(differences(found, expected), _SHOWN)
        ]
        if not other and read_whole(tree, name) != to_json(expected):
            # A key that stands twice, an order that nobody gave it.
            other = [Fault(name, "is written otherwise", "as a seal writes it", "the same values")]
        faults += other
    faults += others
    told = f"{len(derived)} files, derived again from the manifests: {', '.join(derived)}"
    return PartVerdict.of(ATTESTED, told, count=len(derived), faults=faults)


RECORDED_SETTINGS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("fetch_source", "location"): ("source",),
    ("fetch_donor", "location"): ("donor",),
    ("lint_source", "lint"): ("lint",),
    **{
        ("quantize_nvfp4", name): ("quantization", name)
        for name in ("recipe", "keep_bf16", "use_fp8", "activations")
    },
    ("respell", "spelling"): ("spelling",),
    ("graft_mtp", "text_only"): ("text_only",),
    ("heal_mtp", "training"): ("healing", "training"),
    ("quantize_mtp", "scheme"): ("mtp", "quantize"),
    ("verify_release", "lint"): ("lint",),
    ("judge_release", "verdict"): ("verdict",),
    ("render_card", "launches"): ("launches",),
}
"""By stage and setting where the configuration has what the stage was given, word for word."""


OPTIONAL_STAGES: Mapping[str, tuple[tuple[str, ...], object]] = {
    "fetch_donor": (("donor",), None),
    "respell": (("spelling",), DEFAULT_SPELLING.name),
    "heal_mtp": (("healing", "enabled"), False),
    "quantize_mtp": (("mtp", "quantize"), "none"),
    "run_agent_tasks_source": (("verdict", "enabled"), False),
    "judge_release": (("verdict", "enabled"), False),
}
"""By stage that not every release has: where the configuration asks for it, and what it says there
if it does not."""

_LATER = ("verdict",)
"""Sections that the configuration of a release from before there was such a stage lacks."""


def _config_faults(release: "SealedRelease") -> Iterator[Fault]:
    """What the configuration that attestations quote says otherwise than the stages recorded."""
    from scion.report.attestation.attestations import differences

    for (stage, setting), keys in RECORDED_SETTINGS.items():
        settings = release.manifests.get(stage, {}).get("settings", {})
        if setting not in settings:
            continue
        said, place = _said(release, keys), f"settings.config.{'.'.join(keys)}"
        for where, given, quoted in islice(differences(said, settings[setting], place), _SHOWN):
            yield Fault(f"{MANIFEST}: {where}", f"is not what {stage} was given", given, quoted)
    for stage, (keys, without) in OPTIONAL_STAGES.items():
        made = stage in release.manifests
        if not made and keys[0] in _LATER and keys[0] not in release.config:
            continue
        said = _said(release, keys)
        if made == (said == without):
            place = f"{MANIFEST}: settings.config.{'.'.join(keys)}"
            told = "a value that asks for it" if made else json.dumps(without)
            problem = f"is not what a release {'with' if made else 'without'} {stage} says"
            yield Fault(place, problem, told, printable(said)[:_SHOWN])


def _said(release: "SealedRelease", keys: Sequence[str]) -> object:
    """What the configuration has in a place; None where it has nothing there."""
    said: Any = release.config
    for key in keys:
        said = said.get(key) if isinstance(said, dict) else None
    return said


def _page_faults(
    tree: FileTree, sealed: Mapping[str, Any], manifests: Mapping[str, Manifest]
) -> Iterator[Fault]:
    """Lines of the page of all stages that do not follow from their manifests."""
    from scion.report.card.provenance_page import PROVENANCE_PAGE, provenance_page

    if PROVENANCE_PAGE not in sealed["files"]:
        return
    told = {stage: each for stage, each in manifests.items() if stage != RENDERED}
    expected = provenance_page(told).splitlines()
    try:
        found = read_whole(tree, PROVENANCE_PAGE).decode().splitlines()
    except (OSError, EOFError, ValueError) as error:
        yield Fault(PROVENANCE_PAGE, "can't be read", "text", printable(error))
        return
    for number, (wanted, there) in enumerate(zip_longest(expected, found), start=1):
        if wanted != there:
            where = f"{PROVENANCE_PAGE}: line {number}"
            yield Fault(where, "is not what the manifests say", str(wanted), printable(str(there)))
            return


@dataclass(frozen=True)
class Signer:
    """Who has to have signed a release: the owner of a key, or whom Sigstore has identified.

    Attributes:
        public_key: PEM file of the key; None for an identity.
        identity: Such as an e-mail address, or the URI of a job of CI.
        issuer: Address of the OpenID Connect provider that vouches for the identity.
    """

    public_key: Path | None = None
    identity: str | None = None
    issuer: str | None = None

    def __post_init__(self) -> None:
        """Refuse a key beside an identity, and one half of an identity.

        Raises:
            ScionError: It is so.
        """
        given = tuple(value is not None for value in (self.public_key, self.identity, self.issuer))
        if given not in ((True, False, False), (False, True, True)):
            raise ScionError(
                "it is not clear who has to have signed",
                where="--key, --identity, --issuer",
                expected="a key; or an identity, and who vouches for it",
                found=", ".join(f"{key} {value}" for key, value in vars(self).items() if value),
                hint="scion audit --help",
            )

    def verifier(self, tree: FileTree) -> "Config":
        """What verifies the signature of a release.

        Raises:
            ScionError: The key can't be used, Sigstore can't be reached, or the release is a
                repository of the hub: whoever has named a signer must not take another verdict for
                one on the signature.
            MissingExtraError: The library that verifies is not installed.
        """
        if not isinstance(tree, FolderTree):
            raise ScionError(
                "a signature is verified in a folder",
                where=tree.name,
                expected="the release on this machine",
                found="a repository of the hub",
                hint="download it (hf download), and audit the folder",
            )
        from scion.report.attestation.signature import identity_verifier, key_verifier

        if self.public_key is not None:
            return key_verifier(self.public_key)
        return identity_verifier(str(self.identity), str(self.issuer))

    def __str__(self) -> str:
        """As a verdict names them."""
        if self.public_key is not None:
            return f"the owner of {self.public_key}"
        return f"{self.identity}, for whom {self.issuer} vouches"


def audit_signature(
    tree: FileTree, signer: Signer | None, verifier: "Config | None" = None
) -> PartVerdict | None:
    """Hold a release against its signature; None where there is none and nobody has to have signed.

    Args:
        tree: The files of the release.
        signer: Who has to have signed them; None where the reader has named nobody.
        verifier: What `signer` gives for this tree.
    """
    if SIGNATURE not in tree.added:
        if signer is None:
            return None
        there = tree.others.get(SIGNATURE, "no such file")
        fault = Fault(SIGNATURE, "is missing", f"a signature by {signer}", there)
        return PartVerdict.of(SIGNED, "not signed", count=0, faults=[fault])
    count = len(tree.files)
    if signer is None or verifier is None:
        told = "signed by somebody; name the public key that you have of its publisher as --key"
        return PartVerdict(SIGNED, ProofLevel.UNPROVED, told, count)
    from scion.report.attestation.signature import verify

    folder = Path(tree.name)
    try:
        verify(folder, folder / SIGNATURE, verifier)
    except ScionError as error:
        fault = Fault(SIGNATURE, error.problem, f"that of {signer}", printable(error.found))
        return PartVerdict.of(SIGNED, "does not hold", count=count, faults=[fault])
    return PartVerdict.of(SIGNED, f"{count} files, by {signer}", count=count, faults=[])
