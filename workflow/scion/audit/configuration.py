"""Whether config.json and the tokenizer's files of a release are its source's."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from scion.architectures.inventory import with_mtp_layers
from scion.audit.equality import aligned
from scion.audit.verdict import Fault, PartVerdict, ProofLevel
from scion.audit.weights import RangedCheckpoint
from scion.checkpoint.release_files import NAMING_CODE, PROCESSOR_FILES, released, without_code
from scion.checkpoint.shards import CONFIG, INDEX, parse_object
from scion.common.bounded_json import MAX_TEXT_BYTES
from scion.common.errors import ScionError
from scion.formats.spellings import declared_spelling

PART = "configuration"
_QUANTIZATION, _TOWER = "quantization_config", "vision_config"


def audit_configuration(
    release: RangedCheckpoint,
    source: RangedCheckpoint,
    *,
    sealed: bool,
    algorithms: Mapping[str, str],
) -> PartVerdict:
    """Hold config.json and the files beside it to the source's.

    The number of MTP layers may be another: the head's own verdict tells of it. What quantizing
    declares is held to what Scion writes of such modules, where Scion made the release. Other tools
    write keys and files anew: what says something else than the source refutes their releases too,
    what only one of the two has is a remark.

    Args:
        release: The release.
        source: Its source.
        sealed: Whether Scion made it, which changes nothing else.
        algorithms: NVFP4, W4A16 or FP8 of every quantized module, by the name that it is stored by.
    """
    differences = [*_keys(release, source), *_files(release, source, sealed=sealed)]
    if sealed:
        differences += _declaration(release, algorithms)
    faults = [each for each in differences if sealed or _contradicts(each)]
    remarks = tuple(each for each in differences if each not in faults)
    count = len(_beside(source)) + 1
    told = f"config.json, and {count - 1} files beside it, say what the source's say"
    if remarks:
        first = ", ".join(remark.subject for remark in remarks[:6])
        told = f"{len(remarks)} keys or files that only one of the two has, or says anew: {first}"
    level = ProofLevel.UNPROVED if remarks else ProofLevel.PROVED
    verdict = PartVerdict.of(PART, told, count=count, faults=faults, otherwise=level)
    return replace(verdict, remarks=remarks)


# What exporters write of themselves.
_OWN = (
    *("transformers_version", "torch_dtype", "dtype", "architectures", "model_type"),
    *("_name_or_path", "_from_model_config"),
)
_NONE = "none"
_NOTHING = (_NONE, "None", "''", "[]", "{}")
_GENERATION, _TOKENS = "generation_config.json", ("bos_token_id", "eos_token_id", "pad_token_id")


def _contradicts(difference: Fault) -> bool:
    """Whether both say something, and not the same; a sampling default that is added does."""
    file, _, key = difference.subject.rpartition(": ")
    last = key.rpartition(".")[2]
    if last in _OWN:
        return False
    if file == _GENERATION and last not in _TOKENS:
        return True
    return difference.expected not in _NOTHING and difference.found not in _NOTHING


def _declaration(release: RangedCheckpoint, algorithms: Mapping[str, str]) -> Iterator[Fault]:
    """What `quantization_config` and its sidecars say beyond what the stored modules imply."""
    declared = release.config.get(_QUANTIZATION)
    spelling = declared_spelling(release.config)
    if not isinstance(declared, dict) or spelling is None:
        yield Fault(_QUANTIZATION, "declares no scheme that Scion writes", "one", repr(declared))
        return
    scheme = cast("dict[str, Any]", declared)
    # Lint judges the list of excluded modules as engines match it.
    exclude, producer = scheme.get("ignore") or [], scheme.get("producer") or {}
    try:
        wanted = spelling.declaration(exclude, producer=producer, algorithms=algorithms)
    except (TypeError, AttributeError):
        wanted = {}
    wanted["ignore"] = exclude
    for key in sorted({*wanted, *scheme}):
        if _in_order(wanted.get(key)) != _in_order(scheme.get(key)):
            told = [repr(each.get(key, _NONE))[:200] for each in (wanted, scheme)]
            yield Fault(f"{CONFIG}: {_QUANTIZATION}.{key}", "is not of the modules there", *told)
    for name, content in spelling.sidecars.items():
        raw = release.source.read(name) if name in release.source.files else None
        try:
            found = {} if raw is None else parse_object(raw, where=name)
            if found != content(scheme):
                yield Fault(
                    name, "does not say what config.json says", "the same scheme", "another"
                )
        except (KeyError, TypeError, ScionError):
            yield Fault(name, "can't be read beside config.json", "the same scheme", "another")


def _in_order(value: Any) -> Any:
    """A value whose lists of names are sorted, as deep as they lie."""
    if isinstance(value, dict):
        return {key: _in_order(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        parts = [_in_order(each) for each in cast("list[Any]", value)]
        return sorted(parts, key=repr)
    return value


def _keys(release: RangedCheckpoint, source: RangedCheckpoint) -> Iterator[Fault]:
    """Keys of config.json that differ, those of its sections one by one."""
    wanted = without_code(with_mtp_layers(source.config, 0))
    if _TOWER not in release.config:
        wanted.pop(_TOWER, None)
    found = with_mtp_layers(release.config, 0)
    found.pop(_QUANTIZATION, None)
    yield from _sections(found, wanted, file=CONFIG)


def _sections(found: Mapping[str, Any], wanted: Mapping[str, Any], *, file: str) -> Iterator[Fault]:
    """Keys of a file of JSON that differ, those of its sections one by one."""
    for key in sorted({*wanted, *found}):
        ours, theirs = found.get(key), wanted.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            for part in sorted({*ours, *theirs}):
                yield from _key(f"{key}.{part}", ours, theirs, part, file=file)
        else:
            yield from _key(key, found, wanted, key, file=file)


def _key(
    name: str,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    key: str,
    *,
    file: str,
) -> Iterator[Fault]:
    told = [repr(each[key])[:200] if key in each else _NONE for each in (wanted, found)]
    if (key in found) is not (key in wanted) or found.get(key) != wanted.get(key):
        yield Fault(f"{file}: {name}", "is not as the source has it", *told)


def _beside(source: RangedCheckpoint) -> list[str]:
    """Files of the source, beside weights and config.json, that its readers load."""
    names = released(source.source.files)
    return [n for n in names if n not in (CONFIG, INDEX) and not n.endswith(".safetensors")]


def _files(release: RangedCheckpoint, source: RangedCheckpoint, *, sealed: bool) -> Iterator[Fault]:
    ours = release.source.files
    for name in _beside(source):
        if name not in ours:
            if name not in PROCESSOR_FILES or _TOWER in release.config:
                yield Fault(name, "is not there", "the source's file", _NONE)
        elif not _same(release, source, name):
            yield from _otherwise(release, source, name, sealed=sealed)
    for name in sorted(set(_beside(release)) - set(_beside(source))):
        yield Fault(name, "is no file of the source", _NONE, f"{ours[name]} bytes")


def _otherwise(
    release: RangedCheckpoint, source: RangedCheckpoint, name: str, *, sealed: bool
) -> Iterator[Fault]:
    """What a file of the same name says otherwise; of JSON, key by key."""
    found, wanted = (_parsed(each, name) for each in (release, source))
    if sealed or found is None or wanted is None:
        yield Fault(name, "is not as the source has it", "the source's bytes", "others")
        return
    # A vocabulary is a section of its own.
    yield from _sections(found, wanted, file=name)


def _parsed(checkpoint: RangedCheckpoint, name: str) -> dict[str, Any] | None:
    length = checkpoint.source.files[name]
    if not name.endswith(".json") or length > MAX_TEXT_BYTES:
        return None
    try:
        return parse_object(b"".join(checkpoint.source.stream(name, 0, length)), where=name)
    except ScionError:
        return None


def _same(release: RangedCheckpoint, source: RangedCheckpoint, name: str) -> bool:
    sizes = [each.source.files[name] for each in (release, source)]
    if sizes[0] == sizes[1]:
        streams = [each.source.stream(name, 0, sizes[0]) for each in (release, source)]
        if all(a == b for a, b in aligned(*streams)):
            return True
    # Keys that name code to load do not travel.
    found, wanted = (_parsed(each, name) for each in (release, source))
    if found is None or wanted is None or name not in NAMING_CODE:
        return False
    return found == without_code(wanted)
