"""The audit of a release: all verdicts, over what its reader has given."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scion.architectures.inventory import inventory
from scion.architectures.sound_names import SoundNames
from scion.artifacts.manifest import MANIFEST
from scion.audit.attested import Signer, audit_attestations, audit_signature
from scion.audit.claims import Claims
from scion.audit.configuration import audit_configuration
from scion.audit.equality import Pairs
from scion.audit.full_derivation import FULL_DERIVATION, audit_in_full
from scion.audit.origin import NAMES, Original, audit_head, audit_origin
from scion.audit.seal import SEAL, audit_lint, audit_seal, release_tree
from scion.audit.side_by_side import SideBySide
from scion.audit.stored import StoredTensors, stored_tensors
from scion.audit.verdict import Fault, PartVerdict, ProofLevel
from scion.audit.weights import Extent, Extents, RangedCheckpoint, members_apart
from scion.checkpoint.donor_head import find_head
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.shards import CONFIG, parse_object
from scion.common.errors import ScionError

VERSION = 1


@dataclass(frozen=True)
class ReleaseAudit:
    """What was found of a release.

    Attributes:
        release: Its folder or repository, with the commit that was read.
        source: The same of the source; None where none was given.
        donor: The same of the donor.
        root: The root digest of its seal; None where it has none that holds.
        verdicts: One for each part.
    """

    release: str
    source: str | None
    donor: str | None
    root: str | None
    verdicts: Sequence[PartVerdict]

    def reaches(self, level: ProofLevel) -> bool:
        """Whether every part is proved so far, or further."""
        order = list(ProofLevel)
        return all(order.index(v.outcome) <= order.index(level) for v in self.verdicts)

    @property
    def refuted(self) -> bool:
        """Whether anything contradicts the release."""
        return any(verdict.outcome is ProofLevel.REFUTED for verdict in self.verdicts)

    def record(self) -> dict[str, Any]:
        """As JSON; keys are added without notice, none is removed while `version` stays.

        version: 1
        release, source, donor: what was read, with commits of the hub; null where none was given
        root: digest of the seal
        refuted: whether anything contradicts the release
        verdicts: each with part, outcome, told, count, faults
        """
        return {
            "version": VERSION,
            "release": self.release,
            "source": self.source,
            "donor": self.donor,
            "root": self.root,
            "refuted": self.refuted,
            "verdicts": [verdict.record() for verdict in self.verdicts],
        }


def audit(
    release: str,
    *,
    source: str | None = None,
    donor: str | None = None,
    root: str | None = None,
    signer: Signer | None = None,
    deep: bool = False,
) -> ReleaseAudit:
    """Prove what can be proved of a release.

    Args:
        release: Its folder, or a repository of the hub.
        source: The bf16 checkpoint that it was made from; a folder or a repository.
        donor: The checkpoint that its MTP head comes from.
        root: The digest that its publisher has named of its seal; None where nobody has.
        signer: Who has to have signed it; None where nobody was named.
        deep: Whether lint reads the tensors' data as well, which needs a folder, and the source is
            quantized again where the calibration samples are at hand.

    Raises:
        ScionError: The release, source or donor is not there, can't be read, or is no checkpoint
            of an architecture that is known.
    """
    tree = release_tree(release)
    # Before hours of reading: what is wrong with a key is no verdict.
    verifier = signer.verifier(tree) if signer is not None else None
    given = _Given.open(release, source, donor)
    pairs = given.pairs()
    passing = SideBySide(pairs)
    seal, claims, found_root = audit_seal(tree, watch=passing.take)
    if root is not None and root != found_root:
        problem = "is another seal than the one that was named"
        fault = Fault(MANIFEST, problem, root, str(found_root))
        seal = PartVerdict.of(SEAL, seal.told, count=seal.count, faults=[*seal.faults, fault])
    attestations = audit_attestations(tree) if claims.sealed else None
    signature = audit_signature(tree, signer, verifier)
    verdicts = [seal, *filter(None, (attestations, signature))]
    weights, original, head = given.weights, given.original, given.head
    if isinstance(weights, ScionError):
        # What is damaged is told by the seal; without one there is nothing to say.
        if seal.outcome is not ProofLevel.REFUTED:
            raise weights
        fault = Fault(weights.where, weights.problem, weights.expected, weights.found)
        verdicts.append(PartVerdict.of(NAMES, "can't be read", count=0, faults=[fault]))
        return ReleaseAudit(release, source, donor, None, verdicts)
    verdicts.append(audit_lint(release, deep=deep))
    if original is None:
        told = "name the bf16 checkpoint that the release was made from as --source"
        count = len(weights.extents)
        verdicts.append(PartVerdict("tensors and configuration", ProofLevel.UNPROVED, told, count))
        if head is not None:
            verdicts.append(_head_alone(weights, head, claims))
    else:
        same = {name: replace(pairs[name][0], same_as=pairs[name][1]) for name in passing.equal}
        stored = replace(given.stored, plain={**given.stored.plain, **same})
        verdicts += audit_origin(weights, stored, original, head, claims)
        algorithms = {each.stored_name: each.algorithm for each in stored.modules.values()}
        verdicts.append(
            audit_configuration(
                weights, original.weights, sealed=claims.sealed, algorithms=algorithms
            )
        )
    read = original.weights.source.name if original is not None else None
    if deep:
        verdicts.append(_in_full(release, weights, read, claims))
    held = found_root if seal.outcome is ProofLevel.PROVED else None
    return ReleaseAudit(weights.source.name, read, given.donor, held, verdicts)


@dataclass(frozen=True)
class _Given:
    """The checkpoints of an audit, of which headers and configurations are read.

    Attributes:
        weights: The release's tensors; or why they can't be read.
        original: The source; None where none was given.
        stored: The release's tensors, sorted by the source's names; none without a source.
        head: The tensors of the donor's head; None where no donor was given.
        donor: What was read of the donor.
    """

    weights: RangedCheckpoint | ScionError
    original: Original | None = None
    stored: StoredTensors = field(default_factory=StoredTensors)
    head: Extents | None = None
    donor: str | None = None

    @classmethod
    def open(cls, release: str, source: str | None, donor: str | None) -> "_Given":
        """Open them; source and donor only if there is anything to hold against them.

        Raises:
            ScionError: Source or donor can't be read.
        """
        try:
            weights = RangedCheckpoint.open(release)
        except ScionError as error:
            return cls(error)
        head, named = _donor_head(donor) if donor is not None else (None, None)
        if source is None:
            return cls(weights, head=head, donor=named)
        original = Original.of(RangedCheckpoint.open(source))
        stored = stored_tensors(weights, original.sound(weights))
        return cls(weights, original, stored, head, named)

    def pairs(self) -> Pairs:
        """The tensors that are stored as they were, each with its original, if the forms agree."""
        if self.original is None:
            return {}
        originals = {**self.original.extents, **(self.head or {})}
        return {
            name: (extent, originals[name])
            for name, extent in self.stored.plain.items()
            if name in originals and extent.form == originals[name].form
        }


def _in_full(
    release: str, weights: RangedCheckpoint, source: str | None, claims: Claims
) -> PartVerdict:
    """The verdict of quantizing again."""
    lacking = {
        "no source was given": source is None,
        "the release has no manifest": not claims.sealed,
        "it records no recipe that is known": claims.recipe is None,
    }
    for why, so in lacking.items():
        if so:
            return PartVerdict(FULL_DERIVATION, ProofLevel.UNPROVED, f"not done: {why}", 0)
    return audit_in_full(release_tree(release), weights, str(source))


def _head_alone(release: RangedCheckpoint, donor: Extents, claims: Claims) -> PartVerdict:
    """The head's verdict where there is a donor and no source."""
    expected = inventory(release.config, where=f"{release.source.name}/{CONFIG}")
    stored = stored_tensors(release, SoundNames(expected.storable, expected.family))
    return audit_head(stored, members_apart(stored.plain, expected), {}, donor, claims)


def _donor_head(location: str) -> tuple[Extents, str]:
    """The tensors of a donor's MTP head, experts one by one, and what was read."""
    source = open_source(location)
    found = find_head(source, location)
    headers = source.headers(sorted({shard for shard, _ in found.tensors}))
    extents = {
        tensor.name: Extent(source, shard, headers[shard].data_start + tensor.begin, tensor)
        for shard, tensor in found.tensors
    }
    expected = inventory(parse_object(found.config, where=location), where=location)
    return members_apart(extents, expected), source.name
