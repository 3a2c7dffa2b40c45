"""What came of a stage, in a few words, from its artifact alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import FOUND
from scion.artifacts.manifest import find_manifest
from scion.artifacts.release_layout import SEALED
from scion.artifacts.store.store import Store
from scion.checkpoint.shards import read_json
from scion.common.errors import ScionError
from scion.common.text import size
from scion.report.measurements import MEASUREMENTS

_Facts = Mapping[str, Any]


def _fetched(facts: _Facts) -> str:
    return f"{facts['tensors']} tensors, {size(facts['bytes'])}"


def _linted(facts: _Facts) -> str:
    repaired = ", ".join(facts["repaired_by"])
    return f"{facts['findings']} findings" + (f"; repaired by {repaired}" if repaired else "")


def _fixed(facts: _Facts) -> str:
    return f"{facts['renamed_tensors']} of {facts['tensors']} keys renamed"


def _extracted(facts: _Facts) -> str:
    removed = {
        "the vision tower": facts["vision_tensors_removed"],
        "the MTP head": facts["mtp_tensors_removed"],
    }
    words = [f"{count} tensors of {part}" for part, count in removed.items() if count]
    said = f"{' and '.join(words)} set apart" if words else "nothing to set apart"
    reasons = [f"{part}: {reason}" for part, reason in facts["not_applicable"].items()]
    return "; ".join([said, *reasons])


def _grafted(facts: _Facts) -> str:
    tower = facts["vision_tensors"]
    said = [f"{tower} tensors of the source's vision tower"] if tower else []
    if facts["mtp_origin"] == "none":
        return "; ".join(["a release without an MTP head", *said])
    return "; ".join([f"{facts['mtp_tensors']} tensors of {facts['donor'] or 'the source'}", *said])


def _healed(facts: _Facts) -> str:
    healing = facts["healing"]
    before, after = (healing[when]["tokens"] for when in ("before", "after"))
    said = f"{after:.2f} tokens a step on texts held out, {before:.2f} before"
    if healing["off_domain"] is not None:
        found = (healing["off_domain"][when]["tokens"] for when in ("before", "after"))
        said += "; {1:.2f} for {0:.2f} on other domains".format(*found)
    return said if healing["healed"] else f"the head stays as it was: {said}"


def _head_quantized(facts: _Facts) -> str:
    head = facts["quantized_head"]
    return (
        f"{len(head['modules'])} modules of the MTP head in {head['algorithm']}: "
        f"{size(facts['mtp_bytes'])} became {size(head['bytes'])}"
    )


def _verified(facts: _Facts) -> str:
    return (
        f"{facts['tensors']} tensors, {facts['unchanged_tensors']} of them bit for bit; relative "
        f"error of weights {facts['relative_weight_error']:.4f}"
    )


_OF_FACTS: dict[str, Callable[[_Facts], str]] = {
    "fetch_source": _fetched,
    "fetch_base": _fetched,
    "fetch_donor": lambda facts: f"{facts['mtp_tensors']} tensors, {size(facts['mtp_bytes'])}",
    "lint_source": _linted,
    "fix_keys": _fixed,
    "extract_text": _extracted,
    "quantize_nvfp4": lambda facts: (
        f"{facts['quantized_modules']} modules, {facts['recipe']['name']}"
    ),
    "respell": lambda facts: f"{facts['quantized_modules']} modules, {facts['spelling']}",
    "graft_mtp": _grafted,
    "sample_replies": lambda facts: (
        f"{facts['replies']} replies, {facts['reply_tokens']} tokens, "
        f"and {facts['dialogues']} dialogues"
        + (f"; {facts['off_domain']} of other domains" if facts["off_domain"] else "")
    ),
    "heal_mtp": _healed,
    "quantize_mtp": _head_quantized,
    "verify_release": _verified,
}


def stage_result(pointer: Path, store: Store, *, log: Path | None) -> str:
    """What came of a stage; empty where nothing short can be said.

    Args:
        pointer: What its rule made.
        store: Keeps its artifact.
        log: What it said.
    """
    manifest = find_manifest(pointer)
    if manifest is None:
        return ""
    artifact = Artifact(store.place(manifest["content"]), manifest)
    try:
        text = _text(artifact)
    # An artifact of another version, say; the run does not end for a line.
    except (ScionError, LookupError, TypeError, ValueError, AttributeError, OSError):
        text = ""
    return ", ".join(filter(None, [text, "from the store" if _was_found(artifact, log) else ""]))


def _text(artifact: Artifact) -> str:
    if artifact.stage in _OF_FACTS:
        return _OF_FACTS[artifact.stage](artifact.facts)
    if artifact.stage == "render_card":
        pictures = sum(name.endswith(".svg") for name in artifact.files)
        return f"README.md, {pictures} pictures"
    if artifact.stage == SEALED:
        return f"{len(artifact.files)} files, root {artifact.root[:19]}…"
    row = MEASUREMENTS.get(artifact.stage)
    if row is None or row.brief is None:
        return ""
    return row.brief(read_json(artifact.folder / row.record.name))


def _was_found(artifact: Artifact, log: Path | None) -> bool:
    """Whether the stage said that it had nothing to do."""
    if log is None or not log.is_file():
        return False
    return f"{artifact.stage}: {FOUND}" in log.read_text(errors="replace").splitlines()
