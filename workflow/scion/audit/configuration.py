"""Whether config.json and the tokenizer's files of a release are its source's."""

from collections.abc import Iterator, Mapping
from typing import Any

from scion.architectures.inventory import with_mtp_layers
from scion.audit.equality import aligned
from scion.audit.verdict import Fault, PartVerdict, ProofLevel
from scion.audit.weights import RangedCheckpoint
from scion.checkpoint.release_files import NAMING_CODE, PROCESSOR_FILES, released, without_code
from scion.checkpoint.shards import CONFIG, INDEX, parse_object
from scion.common.bounded_json import MAX_TEXT_BYTES
from scion.common.errors import ScionError

PART = "configuration"
_QUANTIZATION, _TOWER = "quantization_config", "vision_config"


def audit_configuration(
    release: RangedCheckpoint, source: RangedCheckpoint, *, sealed: bool
) -> PartVerdict:
    """Hold config.json, but for what quantizing declares, and the files beside it to the source's.

    The number of MTP layers may be another: the head's own verdict tells of it.

    Args:
        release: The release.
        source: Its source.
        sealed: Whether Scion made it, which changes nothing else; other tools may.
    """
    differences = [*_keys(release, source), *_files(release, source, sealed=sealed)]
    names = _beside(source)
    told = f"config.json but for {_QUANTIZATION}, and {len(names)} files beside it"
    if differences and not sealed:
        first = ", ".join(fault.subject for fault in differences[:6])
        told = f"{len(differences)} are not the source's, which its exporter may do: {first}"
        return PartVerdict(PART, ProofLevel.UNPROVED, told, len(names) + 1)
    return PartVerdict.of(PART, told, count=len(names) + 1, faults=differences)


def _keys(release: RangedCheckpoint, source: RangedCheckpoint) -> Iterator[Fault]:
    """Keys of config.json that differ, those of its sections one by one."""
    wanted = without_code(with_mtp_layers(source.config, 0))
    if _TOWER not in release.config:
        wanted.pop(_TOWER, None)
    found = with_mtp_layers(release.config, 0)
    found.pop(_QUANTIZATION, None)
    for key in sorted({*wanted, *found}):
        ours, theirs = found.get(key), wanted.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            for part in sorted({*ours, *theirs}):
                yield from _key(f"{key}.{part}", ours, theirs, part)
        else:
            yield from _key(key, found, wanted, key)


def _key(
    name: str, found: Mapping[str, Any], wanted: Mapping[str, Any], key: str
) -> Iterator[Fault]:
    told = [repr(each[key])[:200] if key in each else "no such key" for each in (wanted, found)]
    if (key in found) is not (key in wanted) or found.get(key) != wanted.get(key):
        yield Fault(f"{CONFIG}: {name}", "is not as the source has it", *told)


def _beside(source: RangedCheckpoint) -> list[str]:
    """Files of the source, beside weights and config.json, that its readers load."""
    names = released(source.source.files)
    return [n for n in names if n not in (CONFIG, INDEX) and not n.endswith(".safetensors")]


def _files(release: RangedCheckpoint, source: RangedCheckpoint, *, sealed: bool) -> Iterator[Fault]:
    ours = release.source.files
    for name in _beside(source):
        if name not in ours:
            if name not in PROCESSOR_FILES or _TOWER in release.config:
                yield Fault(name, "is not there", "the source's file", "no such file")
        elif not _same(release, source, name):
            yield Fault(name, "is not as the source has it", "the source's bytes", "others")
    added = set(_beside(release)) - set(_beside(source)) if sealed else ()
    for name in sorted(added):
        yield Fault(name, "is no file of the source", "no such file", f"{ours[name]} bytes")


def _same(release: RangedCheckpoint, source: RangedCheckpoint, name: str) -> bool:
    sizes = [each.source.files[name] for each in (release, source)]
    if sizes[0] == sizes[1]:
        streams = [each.source.stream(name, 0, sizes[0]) for each in (release, source)]
        if all(a == b for a, b in aligned(*streams)):
            return True
    if name not in NAMING_CODE or max(sizes) > MAX_TEXT_BYTES:
        return False
    # Keys that name code to load do not travel.
    try:
        ours, theirs = (
            parse_object(b"".join(each.source.stream(name, 0, length)), where=name)
            for each, length in zip((release, source), sizes, strict=True)
        )
    except ScionError:
        return False
    return ours == without_code(theirs)
