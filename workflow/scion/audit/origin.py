"""What source and donor prove of a release's tensors: each is theirs, or made of theirs."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from scion.architectures.families import in_head, unknown_family
from scion.architectures.inventory import Inventory, implied
from scion.architectures.sound_names import SoundNames, sound_names
from scion.architectures.stacks import taken_apart
from scion.audit.claims import Claims
from scion.audit.derivation import Derived, derive, is_largest, nvfp4_rows, windows
from scion.audit.equality import unequal
from scion.audit.stored import StoredModule, StoredTensors
from scion.audit.verdict import Fault, PartVerdict, ProofLevel
from scion.audit.weights import Extent, Extents, RangedCheckpoint, members_apart
from scion.checkpoint.shards import CONFIG
from scion.common.digest import digest_chunks
from scion.common.errors import ScionError
from scion.common.text import size
from scion.formats.modelopt import FP8
from scion.formats.stored_modules import layout
from scion.quantization.packed_group import shared_scale
from scion.quantization.recipe_table import RECIPES, RecipeRow
from scion.quantization.verify_nvfp4 import check_module

NAMES, UNCHANGED, TOWER, HEAD = "names", "unchanged tensors", "vision tower", "MTP head"
WEIGHTS, INPUTS = "quantized weights", "activation scales"
# Of what maximum scales leave, in the blocks that are other than theirs: the bounds of recipes
# whose samples choose scales or move weights, for releases that name no recipe.
_CHOSEN, _MOVED = 2.5, 8.0
# Of a module's codes: GPTQ moves weights everywhere, an edit a few.
_MOVED_SHARE = 0.01
# Of the norm of what training began with; heal_mtp pulls back to that.
_FURTHEST = 1.0
# The largest inputs of linear modules in published scales lie well within.
_LARGEST_INPUTS = 1e-2, 1e5


@dataclass(frozen=True)
class Original:
    """A source by the names that its config.json implies.

    Attributes:
        weights: The checkpoint.
        expected: The tensors that its config.json implies.
        extents: Its tensors by sound names, experts one by one.
    """

    weights: RangedCheckpoint
    expected: Inventory
    extents: Extents

    @classmethod
    def of(cls, source: RangedCheckpoint) -> "Original":
        """Find the sound names of a source.

        Raises:
            ScionError: Its architecture is not known, or its tensors are not those of it.
        """
        expected = _implied(source)
        names = sound_names(source.extents, expected, where=source.source.name)
        extents = {names[key]: extent for key, extent in source.extents.items()}
        return cls(source, expected, members_apart(extents, expected))

    def sound(self, release: RangedCheckpoint) -> SoundNames:
        """The names that a release of it may have: its own, and those of the head declared there.

        Raises:
            ScionError: The release's architecture is not known.
        """
        ours = _implied(release)
        head = {name: s.shape for name, s in ours.stacked.items() if s.members[0] in ours.mtp}
        return SoundNames({**self.expected.storable, **ours.mtp, **head}, self.expected.family)


def audit_origin(
    release: RangedCheckpoint,
    stored: StoredTensors,
    source: Original,
    donor: Extents | None,
    claims: Claims,
) -> list[PartVerdict]:
    """Follow every tensor of a release to its source, or to the donor.

    Args:
        release: The release.
        stored: Its tensors, by the source's `sound` names.
        source: Its source.
        donor: Tensors of the donor's MTP head by name; None where no donor was given.
        claims: What the release says of itself.

    Raises:
        ScionError: A checkpoint can't be read, or is of an architecture that is not known.
    """
    plain = members_apart(members_apart(stored.plain, source.expected), _implied(release))
    body = {name: extent for name, extent in plain.items() if not in_head(name)}
    tower = {name: body.pop(name) for name in source.expected.vision if name in body}
    return [
        _names(stored, plain, source, release),
        _unchanged(UNCHANGED, body, source.extents, foreign=not claims.sealed),
        _tower(tower, source, release),
        *_quantized(stored, source, claims, Path(release.source.name)),
        audit_head(stored, plain, source.extents, donor, claims),
    ]


def audit_head(
    stored: StoredTensors,
    plain: Mapping[str, Extent],
    source: Mapping[str, Extent],
    donor: Extents | None,
    claims: Claims,
) -> PartVerdict:
    """Whether the tensors of the MTP head are the source's own or the donor's.

    Args:
        stored: The tensors of the release.
        plain: Those that are stored as they were, experts one by one.
        source: The source's.
        donor: The donor's, experts one by one; None where no donor was given.
        claims: What the release says of itself.
    """
    head = {name: extent for name, extent in plain.items() if in_head(name)}
    packed = {name: module for name, module in stored.modules.items() if in_head(name)}
    count = len(head) + len(packed)
    own = {name: extent for name, extent in source.items() if in_head(name)}
    faults = [_without_origin(name) for name in stored.strange if in_head(name)]
    if not count:
        told = "left out" if own or donor is not None else "none"
        return PartVerdict.of(HEAD, told, count=0, faults=faults)
    whose, originals = ("source", own) if donor is None else ("donor", donor)
    # Without a donor an own head is the one to hold it to, unless the release says another.
    if not originals or (donor is None and claims.head == "donor"):
        told = f"{count} tensors: name the checkpoint that they come from as --donor"
        return PartVerdict.of(HEAD, told, count=count, faults=faults, otherwise=ProofLevel.UNPROVED)
    there = head.keys() | {f"{name}.weight" for name in packed}
    faults += [
        Fault(name, f"is no tensor of the {whose}", f"a tensor of the {whose}'s head", "none")
        for name in sorted(there - originals.keys())
    ]
    faults += [
        Fault(name, "is missing from the head", f"the {whose}'s tensor", "none")
        for name in sorted(originals.keys() - there)
    ]
    trained = {n: (head[n], originals[n]) for n in head if n in claims.trained and n in originals}
    faults += _begun(claims.trained, originals, whose)
    kept = {n: (head[n], originals[n]) for n in head if n in originals and n not in trained}
    faults += _differences(kept, whose, what=HEAD)
    if not claims.trained:
        return _untrained(packed, originals, len(kept), whose, faults)
    moved, broken = _moved(trained)
    told = (
        f"{len(trained)} tensors trained, {moved:.2g} times the {whose}'s away from it at most; "
        f"{len(packed)} matrices packed after that, {len(kept)} bit for bit the {whose}'s: "
        f"training began with the {whose}'s, and is recorded, not derived again"
    )
    return PartVerdict.of(
        HEAD, told, count=count, faults=[*faults, *broken], otherwise=ProofLevel.UNPROVED
    )


def _untrained(
    packed: Mapping[str, StoredModule],
    originals: Mapping[str, Extent],
    kept: int,
    whose: str,
    faults: list[Fault],
) -> PartVerdict:
    """The verdict of a head that is the other checkpoint's, some of its matrices packed."""
    wrong = list(_form_faults(packed, originals))
    named = {fault.subject for fault in wrong}
    for name, found in derive(
        {n: m for n, m in packed.items() if n not in named}, originals
    ).items():
        if isinstance(found, ScionError):
            wrong.append(Fault(name, found.problem, found.expected, found.found))
        elif not found.exact:
            problem = f"is not what packing makes of the {whose}'s"
            wrong.append(Fault(name, problem, "codes and scales of maxima", "others"))
    told = f"{kept} tensors, bit for bit the {whose}'s"
    told += f"; {len(packed)} matrices packed of the {whose}'s, bit for bit" if packed else ""
    return PartVerdict.of(HEAD, told, count=kept + len(packed), faults=[*faults, *wrong])


def _without_origin(name: str) -> Fault:
    return Fault(name, "has no origin", "a tensor that source or donor has", "none of that name")


def _moved(pairs: Mapping[str, tuple[Extent, Extent]]) -> tuple[float, list[Fault]]:
    """How far trained tensors are from what training began with, and those that can't be it."""
    furthest, faults = 0.0, list[Fault]()
    for name, (tensor, original) in pairs.items():
        if tensor.form != original.form:
            expected, found = (f"{e.form[0]} {list(e.form[1])}" for e in (original, tensor))
            faults.append(Fault(name, "has another form than training leaves", expected, found))
            continue
        moved = norm = 0.0
        for rows in windows(tensor):
            ours, theirs = (each.rows(rows).double() for each in (tensor, original))
            moved += (ours - theirs).square().sum().item()
            norm += theirs.square().sum().item()
        distance = math.sqrt(moved / norm) if norm else float(moved > 0)
        # NaN is far away, too.
        if not distance <= _FURTHEST:
            problem = "is further from what training began with than training goes"
            faults.append(Fault(name, problem, f"within {_FURTHEST:g} times it", f"{distance:.3g}"))
        furthest = max(furthest, distance)
    return furthest, faults


def _begun(
    begun: Mapping[str, str], originals: Mapping[str, Extent], whose: str
) -> Iterator[Fault]:
    """Trained tensors that began with other bytes than those of the checkpoint that was given."""
    for name, digest in begun.items():
        extent = originals.get(name)
        if extent is None:
            continue
        found = digest_chunks(extent.stream(0, extent.tensor.size))
        if found != digest:
            problem = f"was trained from another tensor than the {whose}'s"
            yield Fault(name, problem, found, digest)


def _implied(checkpoint: RangedCheckpoint) -> Inventory:
    where = f"{checkpoint.source.name}/{CONFIG}"
    expected = implied(checkpoint.config, where=where)
    if expected is None:
        raise unknown_family(checkpoint.config, where=where)
    return expected


def _names(
    stored: StoredTensors, plain: Mapping[str, Extent], source: Original, release: RangedCheckpoint
) -> PartVerdict:
    """Whether each tensor is of source or head, and each of the source's is there or left out."""
    weights = {f"{name}.weight" for name in stored.modules}
    there = plain.keys() | weights
    language = [name for name in source.extents if name in source.expected.language]
    unknown = [*stored.strange, *sorted(there - source.extents.keys())]
    faults = [_without_origin(name) for name in unknown if not in_head(name)]
    counts = Counter(taken_apart([*stored.plain, *weights], source.expected.stacked))
    twice = [*stored.twice, *(name for name, count in counts.items() if count > 1)]
    faults += [Fault(name, "stands there twice", "one tensor of it", "several") for name in twice]
    faults += [
        Fault(name, "is missing", "the source's tensor, or what quantizing makes of it", "none")
        for name in language
        if name not in there
    ]
    parts = {"vision tower": source.expected.vision, "own MTP head": source.expected.mtp}
    gone = {
        title: sum(name in source.extents and name not in there for name in names)
        for title, names in parts.items()
    }
    left_out = [f"{count} of the {title}" for title, count in gone.items() if count]
    told = (
        f"{len(release.extents)} tensors, each known by its name; {len(language)} of the source's"
    )
    told += f"; left out: {' and '.join(left_out)}" if left_out else ""
    return PartVerdict.of(NAMES, told, count=len(release.extents), faults=faults)


def _unchanged(
    part: str,
    tensors: Mapping[str, Extent],
    originals: Mapping[str, Extent],
    *,
    foreign: bool = False,
) -> PartVerdict:
    pairs = {n: (extent, originals[n]) for n, extent in tensors.items() if n in originals}
    faults = _differences(pairs, "source", what=part)
    read = size(sum(extent.tensor.size for extent, _ in pairs.values()))
    told = f"{len(pairs)} tensors, {read}, bit for bit the source's"
    if faults and foreign and all(_is_offset(*pairs[fault.subject]) for fault in faults):
        told = (
            f"{len(pairs) - len(faults)} bit for bit the source's; {len(faults)} norms w are "
            "1 + w, rounded to bf16, less 1, as llm-compressor leaves them"
        )
        return PartVerdict(part, ProofLevel.BOUNDED, told, len(pairs))
    return PartVerdict.of(part, told, count=len(pairs), faults=faults)


def _is_offset(tensor: Extent, original: Extent) -> bool:
    """Whether a norm's weight has had 1 added and taken away again, in bf16."""
    dtype, shape = original.form
    if tensor.form != original.form or dtype != "BF16" or len(shape) != 1:
        return False
    found, wanted = (each.rows(range(shape[0])) for each in (tensor, original))
    return bool(torch.equal(found, (wanted + 1) - 1))


def _differences(
    pairs: Mapping[str, tuple[Extent, Extent]], whose: str, *, what: str
) -> list[Fault]:
    return [
        Fault(name, f"is not the {whose}'s", "the same bytes", told)
        for name, told in unequal(pairs, what=what).items()
    ]


def _tower(tower: Extents, source: Original, release: RangedCheckpoint) -> PartVerdict:
    there = [name for name in source.expected.vision if name in source.extents]
    if tower or "vision_config" in release.config:
        missing = [
            Fault(name, "is not there as it is in the source", "the source's tensor", "none")
            for name in there
            if name not in tower
        ]
        found = _unchanged(TOWER, tower, source.extents)
        return PartVerdict.of(
            TOWER, found.told, count=found.count, faults=[*found.faults, *missing]
        )
    told = f"left out, {len(there)} tensors" if there else "none"
    return PartVerdict(TOWER, ProofLevel.PROVED, told, len(there))


def _quantized(
    stored: StoredTensors, source: Original, claims: Claims, folder: Path
) -> Iterator[PartVerdict]:
    """The verdicts of quantized weights and of the scales of their inputs."""
    modules = {n: m for n, m in stored.modules.items() if not in_head(n)}
    faults = list(_form_faults(modules, source.extents))
    if claims.sealed and claims.recipe is None and modules:
        problem = "the release records no recipe that is known, so nothing bounds what was chosen"
        faults.append(Fault("quantize_nvfp4", problem, ", ".join(RECIPES), "another or none"))
    wrong = {fault.subject for fault in faults}
    sound = {n: m for n, m in modules.items() if n not in wrong}
    derived = derive(sound, source.extents, foreign=not claims.sealed)
    outcomes = dict[str, int]()
    found = {name: each for name, each in derived.items() if isinstance(each, Derived)}
    groups = {name: group for group in source.expected.groups for name in group}
    worst = 0.0
    for name, each in derived.items():
        if isinstance(each, ScionError):
            faults.append(Fault(name, each.problem, each.expected, each.found))
            continue
        # What a partner that is refuted would have had is not known.
        group = [found.get(other) for other in groups.get(name, (name,))]
        fault, how = _judged(each, group, sound[name], source.extents, claims, folder)
        if fault is not None:
            faults.append(fault)
        worst = max(worst, each.error_ratio)
        outcomes[how] = outcomes.get(how, 0) + 1
    told = "; ".join(f"{count} {how}" for how, count in outcomes.items()) or "none"
    if worst:
        told += f" (at most {worst:.3g} times the squared error of maxima in a module's blocks)"
    levels = [_LEVELS[how] for how in outcomes if how in _LEVELS]
    otherwise = max(levels, key=list(ProofLevel).index, default=ProofLevel.PROVED)
    yield PartVerdict.of(WEIGHTS, told, count=len(modules), faults=faults, otherwise=otherwise)
    yield _inputs(stored.modules, groups)


_EXACT = "derived bit for bit: every code, block scale and global scale is that of maxima"
_SEARCHED = "whose codes are derived bit for bit from block scales that were chosen, within bounds"
_ROUNDED = "whose codes are nearest ones, by another arithmetic"
_COMPENSATED = (
    "whose weights are others than the source's, as GPTQ moves them, and as an edit would: only "
    "--deep tells them apart"
)
_WRONG = "refuted"
_LEVELS = {
    _EXACT: ProofLevel.PROVED,
    _SEARCHED: ProofLevel.BOUNDED,
    _ROUNDED: ProofLevel.BOUNDED,
    _COMPENSATED: ProofLevel.UNPROVED,
}


def _judged(
    found: Derived,
    group: list[Derived | None],
    module: StoredModule,
    originals: Mapping[str, Extent],
    claims: Claims,
    folder: Path,
) -> tuple[Fault | None, str]:
    """What contradicts a module, if anything does, and how far it was derived."""
    members = [member for member in group if member is not None]
    if len(members) == len(group) and not is_largest(found, members, foreign=not claims.sealed):
        wanted = max(float(member.largest) for member in members)
        problem = "the scale over the module is not that of the largest weight of its group"
        told = f"that of {wanted:g}"
        return Fault(module.name, problem, told, f"{float(found.scale):g}"), _WRONG
    if found.exact:
        return None, _EXACT
    seen = (
        f"{found.other_scales} other block scales, {found.other_codes} other codes, "
        f"{found.far_codes} of them no nearest ones"
    )
    row = claims.recipe
    if found.algorithm == FP8 or (row is not None and not _has_choice(row)):
        problem = "is not what its recipe makes of the source"
        return Fault(module.name, problem, "the codes and scales of maxima", seen), _WRONG
    if row is not None:
        try:
            check_module(
                nvfp4_rows(module, originals[f"{module.name}.weight"]),
                row,
                module=module.name,
                folder=folder,
                checksums=claims.checksums,
            )
        except ScionError as error:
            return Fault(module.name, error.problem, error.expected, error.found), _WRONG
        if found.other_codes and not row.compensated:
            problem = "has codes that its block scales do not give"
            return Fault(module.name, problem, "those of weight over scale", seen), _WRONG
        return None, _COMPENSATED if found.other_codes else _SEARCHED
    moved = found.far_codes >= _MOVED_SHARE * found.numbers
    most = _MOVED if moved else _CHOSEN
    if (found.far_codes and not moved) or not found.error_ratio <= most:
        problem = "is not what quantizing makes of the source"
        told = f"nearest codes, or weights that GPTQ moved; squared error within {most:g} times"
        seen = f"{seen}; {found.error_ratio:.3g} times the squared error of maxima"
        return Fault(module.name, problem, told, seen), _WRONG
    if moved:
        return None, _COMPENSATED
    return None, _ROUNDED if found.other_codes else _SEARCHED


def _has_choice(row: RecipeRow) -> bool:
    return row.compensated or row.bounds.module_error is not None


def _form_faults(
    modules: Mapping[str, StoredModule], originals: Mapping[str, Extent]
) -> Iterator[Fault]:
    """Modules whose tensors have other dtypes or shapes than their weights imply."""
    for name, module in modules.items():
        weight = originals.get(f"{name}.weight")
        if weight is None:
            # Told among the names.
            yield Fault(name, "is no module of the source", "a weight there", "none")
            continue
        if len(weight.tensor.shape) != 2:
            yield Fault(name, "is no matrix", "a weight that stays as it is", module.algorithm)
            continue
        wanted = layout(module.algorithm, weight.tensor.shape)
        for suffix, extent in module.parts.items():
            dtype, shape = wanted[suffix]
            found = extent.tensor.dtype, extent.tensor.shape
            # A scalar may be stored as a list of one.
            same = found[1] == shape or (shape == () and math.prod(found[1]) == 1)
            if found[0] != dtype or not same:
                expected = f"{suffix}: {dtype} {list(shape)}"
                told = f"{found[0]} {list(found[1])}"
                yield Fault(name, "has a tensor of another form", expected, told)
                break


def _inputs(
    modules: Mapping[str, StoredModule], groups: Mapping[str, tuple[str, ...]]
) -> PartVerdict:
    """Scales of activations: positive, and the same where engines load modules as one."""
    faults = list[Fault]()
    scales = dict[str, float]()
    for name, module in modules.items():
        if "input_scale" not in module.parts:
            continue
        try:
            scales[name] = module.number("input_scale")
        except ScionError as error:
            faults.append(Fault(name, error.problem, error.expected, error.found))
    for name, found in scales.items():
        largest = found / shared_scale(torch.tensor(1.0), modules[name].algorithm).item()
        if not _LARGEST_INPUTS[0] <= largest <= _LARGEST_INPUTS[1]:
            problem = "its activation scale stands for inputs that no model has"
            expected = f"a largest input of {_LARGEST_INPUTS[0]:g} to {_LARGEST_INPUTS[1]:g}"
            faults.append(Fault(name, problem, expected, f"{largest:.3g}"))
    for name, found in scales.items():
        others = {scales[other] for other in groups.get(name, ()) if other in scales}
        if len(others) > 1:
            problem = "its group is loaded as one, and has several activation scales"
            told = ", ".join(f"{each:g}" for each in sorted(others))
            faults.append(Fault(name, problem, f"{found:g} in all", told))
    told = f"{len(scales)}, positive and shared by groups; they come of samples"
    if not scales and not faults:
        return PartVerdict(INPUTS, ProofLevel.PROVED, "none", 0)
    return PartVerdict.of(
        INPUTS, told, count=len(scales), faults=faults, otherwise=ProofLevel.UNPROVED
    )
