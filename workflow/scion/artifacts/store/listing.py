"""What `scion store` prints: the table of `ls`, the sums of `du`, the lines of `prune`."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scion.artifacts.store.housekeeping import Doomed
from scion.artifacts.store.store import Store
from scion.artifacts.store.survey import (
    Entry,
    Inodes,
    Survey,
    being_made,
    inside,
    newest,
    trash_of,
)
from scion.common.digest import hex_digits
from scion.common.text import size

_DIGITS = 12
_HEADS = ("content", "stage", "shown by", "size", "shared", "last used")


@dataclass(frozen=True)
class Listing:
    """The artifacts of a store, what is half made in it, and what is damaged."""

    survey: Survey

    @classmethod
    def of(cls, store: Store) -> "Listing":
        """Look at a store."""
        return cls(Survey.of(store))

    @cached_property
    def _everything(self) -> Inodes:
        return Inodes.of_entries(self.survey.entries)

    def _shared(self, entry: Entry) -> int:
        """Bytes of an artifact that others hold as well."""
        sizes, names = entry.inodes.sizes, entry.inodes.names
        return sum(
            count for inode, count in sizes.items() if self._everything.names[inode] > names[inode]
        )

    def record(self) -> dict[str, Any]:
        """All of it for programs; keys only ever come to it."""
        store = self.survey.store
        return {
            "store": str(store.folder),
            "artifacts": [
                {
                    "content": entry.content,
                    "stages": entry.stages,
                    "recipes": sorted(each["recipe"] for each in entry.manifests.values()),
                    "shown_by": self.survey.shown_by(entry.content),
                    "leased": entry.content in self.survey.needed,
                    "size": entry.inodes.size,
                    "dropped": sum(
                        each["size"] for each in store.dropped.of(entry.content).values()
                    ),
                    "shared": self._shared(entry),
                    "last_used": round(entry.last_used),
                }
                for entry in self.survey.entries
            ],
            "work": [
                {
                    "folder": str(path),
                    "size": Inodes.of([path]).size,
                    "being_made": being_made(store, path),
                    "changed": round(newest(path)),
                }
                for path in self.survey.work()
            ],
            "damaged": [
                {"folder": str(path), "size": Inodes.of([path]).size}
                for path in self.survey.damaged()
            ],
        }

    def lines(self) -> list[str]:
        """A table, then a line for each thing that is no artifact."""
        record = self.record()
        rows = [
            (
                hex_digits(row["content"])[:_DIGITS],
                ", ".join(row["stages"]) or "no record",
                ", ".join(Path(folder).name for folder in row["shown_by"])
                or ("in use" if row["leased"] else "nobody"),
                size(row["size"]) + (f", {size(row['dropped'])} dropped" if row["dropped"] else ""),
                size(row["shared"]) if row["shared"] else "-",
                _day(row["last_used"]),
            )
            for row in sorted(record["artifacts"], key=lambda row: (row["stages"], row["content"]))
        ]
        lines = _table([_HEADS, *rows]) if rows else [f"{record['store']}: no artifacts"]
        for row in record["work"]:
            state = "being made" if row["being_made"] else "half made"
            lines.append(f"{state}: {row['folder']}, {size(row['size'])}, {_day(row['changed'])}")
        lines += [f"damaged: {row['folder']}, {size(row['size'])}" for row in record["damaged"]]
        return lines


@dataclass(frozen=True)
class Usage:
    """Bytes of a store by what they are for, as `--json` prints them."""

    parts: dict[str, int]

    @classmethod
    def of(cls, store: Store) -> "Usage":
        """Look at a store."""
        survey = Survey.of(store)
        reachable = survey.reachable(root for root in survey.roots if root.lasting)
        artifacts = Inodes.of_entries(survey.entries)
        idle = [entry for entry in survey.entries if entry.content not in reachable]
        asides = (*survey.work(), *survey.damaged(), *trash_of(store))
        own = Inodes.of([store.artifacts, *asides])
        alone = Inodes.of_entries(idle)
        busy = Inodes.of_entries(each for each in survey.entries if each.content in reachable)
        folder = store.folder
        large = {folder / name for name in ("artifacts", "work", "damaged")} | {*trash_of(store)}
        rest = [path for path in inside(folder) if path not in large]
        return cls(
            {
                "artifacts": artifacts.size,
                "elsewhere": sum(
                    count
                    for inode, count in artifacts.sizes.items()
                    if artifacts.links[inode] > own.names[inode]
                ),
                "unreachable": alone.size - alone.shared_with(busy),
                "freed": alone.freed,
                "work": Inodes.of(survey.work()).size,
                "damaged": Inodes.of([*survey.damaged(), *trash_of(store)]).size,
                "rest": Inodes.of(rest).size,
            }
        )

    def lines(self) -> list[str]:
        """A line for each part."""
        texts = {
            "artifacts": "artifacts, each file once however many names it has",
            "elsewhere": "of that in files that have names outside of the store as well, such as "
            "shards of a local source or of a sealed release: they take no room of their own",
            "unreachable": "of that held by artifacts alone that no root shows and nobody needs",
            "freed": "of that what prune would free: files without names elsewhere",
            "work": "half-made work",
            "damaged": "damaged entries, and what a prune that was stopped has left",
            "rest": "records, digests of known files, and other small files",
        }
        return [f"{size(self.parts[name]):>10}  {text}" for name, text in texts.items()]


def doomed_lines(store: Store, doomed: Doomed, *, dry_run: bool) -> list[str]:
    """What goes, or would go, line by line; the last one says how much."""
    verb = "would remove" if dry_run else "remove"
    lines = list(doomed.notes)
    for entry in doomed.artifacts:
        told = f"{', '.join(entry.stages) or 'no record'}, {size(entry.inodes.size)}"
        lines.append(f"{verb} {entry.folder}: {told}, last used {_day(entry.last_used)}")
    for kind, paths in {
        "pointer": doomed.pointers,
        "half-made work": doomed.work,
        "damaged": doomed.damaged,
        "left by an earlier prune": doomed.trash,
    }.items():
        lines += [f"{verb} {path}: {kind}" for path in paths]
    small = len(doomed.roots) + len(doomed.records) + len(doomed.small) + len(doomed.locks)
    total = f"artifacts: {len(doomed.artifacts)}, small files: {small}"
    ending = "would be freed" if dry_run else "freed"
    return [*lines, f"{store.folder}: {verb} {total}; {size(doomed.freed)} {ending}"]


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _day(stamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp))
