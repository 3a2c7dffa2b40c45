"""Keeping what a run needs for a while, and no longer, from filling the disk.

Of what stages make, the weights take the room: a source, its repaired and its text model, the
quantized model. If the configuration says so, they are dropped from the store
(`scion.artifacts.store.dropped`) once every stage that reads them has ended, and a further source
is fetched only when that is so of one before it. What a release consists of stays.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.manifest import find_manifest
from scion.artifacts.plan import RESULTS, PlannedStage, Plans
from scion.artifacts.release_layout import GRAFTED, HEAD_QUANTIZED, HEALED
from scion.artifacts.store.dropped import READ_RECORDS
from scion.artifacts.store.housekeeping import is_own, no_locks
from scion.artifacts.store.roots import read_roots
from scion.artifacts.store.store import Store
from scion.artifacts.store.survey import needed_contents
from scion.common.errors import ScionError

SOURCE = "fetch_source"
KEPT = frozenset({GRAFTED, HEALED, HEAD_QUANTIZED, *RESULTS})
"""The stages whose weights are a release's."""
_SECONDS = 10.0
_Files = Mapping[str, Mapping[str, Any]]


def earlier_readers(
    names: Sequence[str], reads: Sequence[Collection[int]], sources: int
) -> dict[int, list[int]]:
    """What has to end before each source is fetched, so that few lie on the disk at once.

    Args:
        names: The stages of a run, each after those that it reads from.
        reads: Of each the places of the stages that it reads from.
        sources: How many sources may be there at once, with what is made of them.

    Returns:
        By the place of a stage that fetches a source, the places of those that read the weights of
        the source that is so many before it, or of what is made of that.
    """
    # The sources that a stage is made from.
    made_from: list[frozenset[int]] = []
    # Of each source the stages that read weights that are not a release's.
    readers: dict[int, list[int]] = {}
    for place, (name, read) in enumerate(zip(names, reads, strict=True)):
        above = frozenset[int]().union(*(made_from[each] for each in read))
        if name == SOURCE:
            above |= {place}
            readers[place] = []
        made_from.append(above)
        dropped = [each for each in read if names[each] not in KEPT]
        # One that is made from several would have them wait for each other.
        if name not in READ_RECORDS and dropped and len(above) == 1:
            (source,) = above
            readers[source].append(place)
    order = list(readers)
    return {place: readers[order[number]] for number, place in enumerate(order[sources:])}


@dataclass
class ScratchKeeper:
    """Drops weights while a run goes on, in the process that hands out its jobs.

    Attributes:
        plans: The run's, settled.
        wanted: The stages that the run is to give, with all that they are made from.
        store: What keeps the artifacts.
        running: The pointers of jobs that have not ended: what they name is of an earlier run.
        dropped: Bytes freed by artifact, in the order in which they went.
    """

    plans: Plans
    wanted: Collection[PlannedStage]
    store: Store
    running: Callable[[], Collection[str]] = tuple
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    _said: set[str] = field(default_factory=set[str])
    _contents: dict[Path, str] = field(default_factory=dict[Path, str])
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """Drop again and again until `end`."""
        self._thread = threading.Thread(target=self._watch, name="scratch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Drop a last time.

        Raises:
            ScionError: As `drop`.
            OSError: Likewise.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.drop()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS):
            try:
                self.drop()
            except (ScionError, OSError) as error:
                # Tried again, for it may pass; said once.
                if str(error) not in self._said:
                    self._said.add(str(error))
                    print(f"weights can't be dropped: {error}", file=sys.stderr)

    def drop(self) -> None:
        """Drop what nothing reads any more, if that frees room.

        What another process, or a folder of results that is none of this run's, needs is left, and
        what another user made.

        Raises:
            ScionError: A root of the store or a note can't be read, or the store has no locks.
            OSError: The store can't be written.
        """
        if not self._free(self._doomed()):
            return
        with self.store.leases.closed() as closed:
            if not closed:
                raise no_locks(self.store.folder)
            doomed = self._doomed()
            folders = {plan.folder.resolve() for plan in self.plans}
            roots = read_roots(self.store.folder, but=folders)
            needed = needed_contents(self.store, self.store.leases.leased(by_others=True))
            needed = needed.union(*(root.contents.values() for root in roots if root.lasting))
            left = [artifact for artifact in doomed if artifact.content not in needed]
            for artifact, files in self._free(left):
                self.store.dropped.drop(artifact.content, artifact.folder, files, self.store.known)
                self.dropped[artifact.content] = sum(entry["size"] for entry in files.values())

    def _doomed(self) -> list[Artifact]:
        """The artifacts that every stage is done with that reads their weights."""
        running = set(self.running())
        contents = {
            stage: content
            for stage in self.wanted
            if str(stage.pointer) not in running and (content := self._content(stage)) is not None
        }
        needed = {stage for stage in contents if stage.name in KEPT}
        for reader in self.wanted:
            if reader not in contents and reader.name not in READ_RECORDS:
                needed.update(reader.reads.values())
        # Several stages may have given the same files.
        kept = {contents[stage] for stage in needed if stage in contents}
        manifests = {
            content: find_manifest(stage.pointer)
            for stage, content in contents.items()
            if content not in kept
        }
        return [
            Artifact(place, manifest)
            for content, manifest in manifests.items()
            if manifest is not None and is_own(place := self.store.place(content))
        ]

    def _content(self, stage: PlannedStage) -> str | None:
        """The content that a stage has given; None while it has not."""
        if stage.pointer not in self._contents:
            manifest = find_manifest(stage.pointer)
            if manifest is None:
                return None
            self._contents[stage.pointer] = manifest["content"]
        return self._contents[stage.pointer]

    def _free(self, artifacts: Iterable[Artifact]) -> list[tuple[Artifact, _Files]]:
        """The artifacts with those of their shards that have no names but in these artifacts.

        Another name, such as a sealed release's or that of a local source, keeps a file's bytes.
        """
        shards = [
            (artifact, name, (artifact.folder / name).stat())
            for artifact in artifacts
            for name in artifact.files
            if name.endswith(".safetensors") and (artifact.folder / name).is_file()
        ]
        names = Counter(info.st_ino for _, _, info in shards)
        found: dict[str, tuple[Artifact, dict[str, Mapping[str, Any]]]] = {}
        for artifact, name, info in shards:
            if names[info.st_ino] == info.st_nlink:
                _, files = found.setdefault(artifact.content, (artifact, {}))
                files[name] = artifact.files[name]
        return list(found.values())
