"""Whether the manifests of a release belong together: each stage made from the ones it should be.

A manifest's digests say that it agrees with itself. Here one is held against the next: by name, so
that none is left out or put in another's place; by the digests that each has of its inputs; and by
what a stage passes on unchanged, so that even somebody who wrote all digests anew is found where
two of them tell of the same files.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from scion.artifacts.release_layout import (
    COMPARED,
    GRAFTED,
    HEAD_QUANTIZED,
    HEALED,
    PROVENANCE,
    RENDERED,
    SEALED,
    TENSORS,
    Manifest,
    weights_stage,
)
from scion.artifacts.software import FACT
from scion.checkpoint.shards import CONFIG, INDEX
from scion.common.digest import digest_json
from scion.common.text import printable
from scion.formats.spellings import SPELLINGS

_QUANTIZED, _RESPELLED, _DONOR = "quantize_nvfp4", "respell", "fetch_donor"
_REPLIES, _VERIFIED = "sample_replies", "verify_release"
# The stages that every release with a grafted head is made by, and by the name of each input, where
# that comes from. Another has no donor, and the stages that read it have one input fewer.
CHAIN: Mapping[str, Mapping[str, str]] = {
    "fetch_source": {},
    _DONOR: {},
    "lint_source": {"source": "fetch_source"},
    "fix_keys": {"source": "fetch_source"},
    "extract_text": {"fixed": "fix_keys"},
    _QUANTIZED: {"text": "extract_text"},
    GRAFTED: {"quantized": _QUANTIZED, "fixed": "fix_keys", "donor": _DONOR},
    _VERIFIED: {"release": GRAFTED, "fixed": "fix_keys", "donor": _DONOR},
}
# Those of a release whose head was trained.
_HEALING: Mapping[str, Mapping[str, str]] = {
    _REPLIES: {"release": GRAFTED},
    HEALED: {"release": GRAFTED, "replies": _REPLIES},
}
# What quantizing the head's matrices is made from, and what verifying them is besides.
_HEAD_FROM, _HEAD_BEFORE = {"release": HEALED}, {"healed": HEALED}
# The stages of the way to a release, and with them all whose inputs are known.
_WAY = {*CHAIN, *_HEALING, HEAD_QUANTIZED, _RESPELLED}
_KNOWN = {*_WAY, SEALED, RENDERED}
# Fetched only to be measured beside the release.
_BESIDES = ("fetch_base",)
# Files other than shards that the stages of the chain write anew.
_REWRITTEN = {
    *(CONFIG, INDEX, TENSORS),
    *(name for spelling in SPELLINGS.values() for name in spelling.sidecars),
}

Manifests = Mapping[str, Manifest]


def quantized_stage(manifests: Iterable[str]) -> str:
    """The stage, of those of a release, whose shards the release has, spelled as they are there."""
    return _RESPELLED if _RESPELLED in manifests else _QUANTIZED


def chain_of(manifests: Manifests) -> dict[str, dict[str, str]]:
    """The stages that this release is made by, with the stage that each input comes from.

    Without a donor where no manifest knows of one; with `respell`, and with the stages that train a
    head and quantize it, where there are their manifests.
    """
    chain = {stage: dict(inputs) for stage, inputs in CHAIN.items()}
    grafted = manifests.get(GRAFTED)
    if grafted is not None and _DONOR not in manifests and "donor" not in grafted["made_from"]:
        del chain[_DONOR]
        for inputs in chain.values():
            inputs.pop("donor", None)
    if quantized_stage(manifests) == _RESPELLED:
        chain[_RESPELLED] = {"quantized": _QUANTIZED}
        chain[GRAFTED]["quantized"] = _RESPELLED
    if HEALED in manifests:
        verified = {**chain.pop(_VERIFIED), "release": HEALED}
        chain |= {stage: dict(inputs) for stage, inputs in _HEALING.items()}
        if HEAD_QUANTIZED in manifests:
            chain[HEAD_QUANTIZED] = dict(_HEAD_FROM)
            verified |= {"release": HEAD_QUANTIZED, **_HEAD_BEFORE}
        chain[_VERIFIED] = verified
    return chain


def chain_problems(manifests: Manifests, sealed: Manifest) -> Iterator[str]:
    """A line for each thing in which the manifests do not agree; it begins with the file.

    Args:
        manifests: By stage, as `provenance/` has them; each of sound form and digests.
        sealed: That of the release.
    """
    for stage in (*chain_of(manifests), RENDERED):
        if stage not in manifests:
            yield f"{_file(stage)}: missing: every release has this stage"
    for stage, manifest in manifests.items():
        if manifest["stage"] != stage:
            yield f"{_file(stage)}: is of another stage, {printable(manifest['stage'])}"
        yield from _input_problems(stage, manifest, manifests)
    yield from _input_problems(SEALED, sealed, manifests)
    yield from _fact_problems(manifests, sealed)
    yield from _passed_on(manifests)
    yield from _kept_files(manifests)
    yield from _weights(manifests)


def _file(stage: str) -> str:
    return "manifest.json" if stage == SEALED else f"{PROVENANCE}/{printable(stage)}.json"


def _input_problems(stage: str, manifest: Manifest, manifests: Manifests) -> Iterator[str]:
    """What is wrong with the artifacts that a stage names as its inputs."""
    inputs = {name: made for name, made in manifest["made_from"].items() if "stage" in made}
    if stage == COMPARED:
        # The other releases of a family have their manifests in folders of their own.
        weights = weights_stage(manifests)
        own = _names(manifests[weights]) if weights in manifests else {}
        if not any(made.items() <= own.items() for made in inputs.values()):
            yield f"{_file(stage)}: compares other releases than this"
        return
    wanted = _wanted(stage, manifests)
    for name, source in wanted.items():
        if inputs.get(name, {}).get("stage") != source:
            yield f"{_file(stage)}: its input {printable(name)} is not the artifact of {source}"
    for name, made in inputs.items():
        if name not in wanted and stage in _KNOWN:
            yield f"{_file(stage)}: has an input {printable(name)} that the stage does not take"
        source = manifests.get(made["stage"])
        if source is None:
            yield (
                f"{_file(stage)}: its input {printable(name)} ({printable(made['content'])}) has "
                f"no manifest in {PROVENANCE}/"
            )
        elif different := [key for key in made if made[key] != _names(source)[key]]:
            yield (
                f"{_file(stage)}: its input {printable(name)} has another "
                f"{' and '.join(different)} than {_file(made['stage'])}"
            )


def _wanted(stage: str, manifests: Manifests) -> Mapping[str, str]:
    """The artifacts that a stage is made from, by the name of the input."""
    if stage in _WAY:
        return chain_of(manifests).get(stage, {})
    if stage in (SEALED, RENDERED):
        return {name: name for name in manifests if name != stage}
    return {} if stage in _BESIDES else {"release": weights_stage(manifests)}


def _names(manifest: Manifest) -> dict[str, str]:
    """All that the manifests of later stages may name an artifact by."""
    names = {name: manifest[name] for name in ("stage", "content", "root")}
    return names | {"facts": digest_json(manifest["facts"])}


def _fact_problems(manifests: Manifests, sealed: Manifest) -> Iterator[str]:
    """Facts that quote what another manifest says."""
    grafted, healed = (manifests.get(stage, {"facts": {}}) for stage in (GRAFTED, HEALED))
    quotes = (
        (SEALED, "weights", weights_stage(manifests), "content"),
        (SEALED, "card", RENDERED, "content"),
        (SEALED, FACT, RENDERED, FACT),
        (GRAFTED, "recipe", _QUANTIZED, "recipe"),
        (_RESPELLED, "recipe", _QUANTIZED, "recipe"),
        (GRAFTED, "donor", _DONOR, "location"),
        (GRAFTED, "mtp_tensors", _DONOR, "mtp_tensors"),
        (GRAFTED, "mtp_bytes", _DONOR, "mtp_bytes"),
        # Whoever reads what a release is made of reads the last of these.
        *((HEALED, fact, GRAFTED, fact) for fact in grafted["facts"]),
        *((HEAD_QUANTIZED, fact, HEALED, fact) for fact in healed["facts"]),
    )
    for stage, fact, source, key in quotes:
        quoting = sealed if stage == SEALED else manifests.get(stage)
        quoted = manifests.get(source)
        if quoting is None or quoted is None:
            continue
        value = (quoted if key == "content" else quoted["facts"]).get(key)
        if quoting["facts"].get(fact) != value:
            yield f"{_file(stage)}: its fact {fact} is not the {key} of {_file(source)}"


def _passed_on(manifests: Manifests) -> Iterator[str]:
    """Files that a stage of the chain has under the name of one of its input, and changed."""
    for stage, inputs in chain_of(manifests).items():
        for source in inputs.values():
            if stage not in manifests or source not in manifests:
                continue
            files, given = manifests[stage]["files"], manifests[source]["files"]
            rewritten = _rewritten(stage, manifests[stage])
            yield from (
                f"{_file(stage)}: {printable(name)} is not that of {_file(source)}"
                for name in files
                if name in given
                and files[name] != given[name]
                and name not in rewritten
                and not name.endswith(".safetensors")
            )


def _rewritten(stage: str, manifest: Manifest) -> set[str]:
    """The files beside shards that a stage writes anew."""
    # Training changes shards of the head, and what says of tensors where they come from.
    if stage == HEALED:
        return {TENSORS}
    told = () if stage == HEAD_QUANTIZED else _told_rewritten(manifest)
    return _REWRITTEN.union(told)


def _kept_files(manifests: Manifests) -> Iterator[str]:
    """Files that a release with another head has more than the one before, or fewer."""
    for stage, source in ((HEALED, GRAFTED), (HEAD_QUANTIZED, HEALED)):
        if stage in manifests and source in manifests:
            files, before = (manifests[each]["files"].keys() for each in (stage, source))
            for name in sorted(files ^ before):
                yield f"{_file(stage)}: {printable(name)} is in one of {stage} and {source} alone"


def _told_rewritten(manifest: Manifest) -> Iterable[str]:
    """Configs of which a stage says that references to code were taken out of them."""
    told = manifest["facts"].get("code_references_removed")
    return cast("dict[str, Any]", told) if isinstance(told, dict) else ()


def _weights(manifests: Manifests) -> Iterator[str]:
    """Whether shards are those of the quantized checkpoint and of a donor's head.

    Shards of what was kept of the source, and of a head that was trained, are others:
    `scion.artifacts.release_tensors` holds what they contain against the tables before.
    """
    sources = chain_of(manifests)[GRAFTED]
    stages = [sources[name] for name in ("quantized", "donor") if name in sources]
    if not all(stage in manifests for stage in (GRAFTED, *stages)):
        return
    shards = _shards(manifests[GRAFTED])
    before = {stage: _shards(manifests[stage]) for stage in stages}
    for source, given in before.items():
        yield from (
            f"{_file(GRAFTED)}: {printable(name)} is not that of {_file(source)}"
            for name, entry in given.items()
            if shards.get(name) != entry
        )
    yield from (
        f"{_file(GRAFTED)}: {printable(name)} is of no stage before"
        for name in shards.keys()
        - set[str]().union(*before.values(), _of_source(manifests[GRAFTED]))
    )


def _of_source(manifest: Manifest) -> Iterable[str]:
    told = manifest["facts"].get("source_shards")
    return map(str, cast("list[Any]", told)) if isinstance(told, list) else ()


def _shards(manifest: Manifest) -> Manifest:
    files = manifest["files"].items()
    return {name: entry for name, entry in files if name.endswith(".safetensors")}
