"""Why a plan would run a stage: what differs between what it asks for and what is shown there.

Told from manifests alone, without running or reading anything large; for people, nothing depends on
it.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from scion.artifacts.manifest import find_manifest
from scion.artifacts.plan import Plan, PlannedStage

NOT_MADE = "not made yet"
"""The reason of a stage of which nothing is shown."""
_SHOWN = 3


def reason(plan: Plan, stage: str, running: Collection[str]) -> str:
    """Why a stage would run, in a few words.

    Args:
        plan: The plan.
        stage: One of its stages that would run.
        running: All that would.
    """
    planned = plan.stages[stage]
    shown = find_manifest(plan.folder / f"{stage}.json")
    if planned.pointer.is_file():
        return "asked for, though it is there"
    if planned.is_dropped:
        return "its weights were dropped, and are read"
    if shown is None or shown["stage"] != stage:
        return NOT_MADE
    parts = list(_own(planned, shown))
    if above := _nearest(planned, running):
        parts.append(f"after {', '.join(above)}")
    return "; ".join(parts) or _left(plan, planned, shown)


def _nearest(planned: PlannedStage, running: Collection[str]) -> list[str]:
    """The stages that would run before it, less those that another of them comes after."""
    above = [read for read in planned.reads.values() if read.name in running]
    further = {each for read in above for each in read.with_reads() if each is not read}
    return list(dict.fromkeys(read.name for read in above if read not in further))


def _own(planned: PlannedStage, shown: Mapping[str, Any]) -> Iterator[str]:
    """What differs beside the artifacts that the stage reads."""
    settings = list(_changes(planned.asked["settings"], shown["settings"]))
    yield from settings[:_SHOWN]
    if len(settings) > _SHOWN:
        yield f"{len(settings) - _SHOWN} more settings"
    # Files of several folders may have one name.
    before = [(entry["file"], entry["sha256"]) for entry in _files(shown)]
    names = {name for name, _ in before}
    for name, sha256 in planned.asked["files"]:
        if name in names and (name, sha256) not in before:
            yield f"{name} changed"
    if planned.asked["code"] != shown["code"]:
        yield "its code changed"
    if planned.asked["environment"] != shown["environment"]:
        yield "its environment changed"


def _left(plan: Plan, planned: PlannedStage, shown: Mapping[str, Any]) -> str:
    """What is left to be the reason: what it reads, or that its artifact is no more."""
    if not plan.store.holds(shown["content"]):
        return "its artifact is gone"
    made_from = [entry["content"] for entry in shown["made_from"].values() if "content" in entry]
    for read in planned.reads.values():
        there = find_manifest(read.pointer)
        if there is not None and there["content"] not in made_from:
            return f"another {read.name}"
    # A plan knows a local checkpoint by how its files look.
    if planned.asked["settings"].get("planned"):
        return f"the files of {planned.asked['settings']['location']} changed"
    if planned.asked["settings"].get("locked"):
        return "the lock says something else of what it reads"
    return "what is there is damaged, or answers something else"


def _files(shown: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    return (entry for entry in shown["made_from"].values() if "file" in entry)


def _changes(asked: Mapping[str, Any], shown: Mapping[str, Any]) -> Iterator[str]:
    """Values that stand under the same key in both and differ; `<key>: <shown>, now <asked>`.

    A manifest may name a section's keys without the section, and leaves out what does not count.
    """
    before = dict(_leaves(shown, ""))
    for name, value in asked.items():
        for path, now in _leaves(_parsed(value), "" if name == "settings" else name):
            _, _, below = path.partition(".")
            for key in (path, below):
                if key in before:
                    if before[key] != now:
                        yield f"{path}: {_short(before[key])}, now {_short(now)}"
                    break


def _parsed(value: Any) -> Any:
    """Sections of the configuration travel as JSON."""
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    return value


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _leaves(below, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        yield f"{path}, how many", len(value)
        for number, below in enumerate(value):
            yield from _leaves(below, f"{path}[{number}]")
    else:
        yield path, value
        # It may have been, or become, one of sections.
        if value == []:
            yield f"{path}, how many", 0


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
