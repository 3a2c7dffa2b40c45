"""The plan of a run: which pointer answers which stage, from what is known before anything runs.

A pointer's name carries a *key*: the digest of the stage's settings, of its code's meaning, of its
environment, of the plain files that it reads, and of the keys of the stages that it reads from. So
a pointer that exists answers what the configuration asks for now; one that answers something else
has another name. Nothing depends on dates or on what an earlier run noted.

A key differs from a recipe, which is known when a stage begins: a recipe names inputs by content.
A stage whose key is new but whose recipe is not finds its artifact in the store and only writes its
pointer. The files of a local checkpoint are too large to be read for a plan: `Store.sources` says
what they are called in one.

Releases that are made in one run have a plan each, and their `Plans` in common. What two of them
ask for under one key is one stage: it is run once, and belongs to the release that asked first.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.code_digest import code_digest
from scion.artifacts.making import Expectation
from scion.artifacts.manifest import find_manifest
from scion.artifacts.results import require_link, show_all, shown_in
from scion.artifacts.store.dropped import READ_RECORDS
from scion.artifacts.store.store import POINTERS, Store
from scion.common.digest import digest_json, hex_digits

_KEY_DIGITS = 16
# Of every pointer, in seconds: the first second of 1970 is over.
_DATE = 1


@dataclass(eq=False)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        name: Its name.
        key: Digest of all that decides what it makes.
        pointer: What its rule declares; another one, once `Plans.settle` has it made again.
        reads: The stages that it reads from, whose pointers are its rule's inputs; by name, or
            where they are of several releases, by `<release>/<name>`.
        expectation: What the stage must find of code and plain files when it runs, as JSON.
        asked: What the key is the digest of, less the stages that it reads from: `settings`,
            `files`, `code`, `environment`.
        is_made: Whether its pointer answers already.
        is_dropped: Whether the weights of what it has given were dropped.
        before: The pointer that it had before `Plans.settle` had it made again.
    """

    name: str
    key: str
    pointer: Path
    reads: Mapping[str, "PlannedStage"]
    expectation: str
    asked: Mapping[str, Any]
    is_made: bool = False
    is_dropped: bool = False
    before: Path | None = None

    @property
    def digits(self) -> str:
        """What the names of its pointers have of the key."""
        return _digits(self.key)

    @property
    def copies(self) -> Path:
        """A folder for what `snakemake --report` shows of the stage."""
        return self.pointer.with_suffix("")

    @property
    def release(self) -> str:
        """The release that it belongs to: the first of those that ask for it."""
        return shown_in(self.pointer).name

    def with_reads(self) -> list["PlannedStage"]:
        """The stage and all that it is made from, each once."""
        return all_made_from([self])


def all_made_from(stages: Iterable[PlannedStage]) -> list[PlannedStage]:
    """Stages and all that they are made from, each once."""
    found = dict.fromkeys(stages)
    left = list(found)
    while left:
        new = [read for read in left.pop().reads.values() if read not in found]
        found |= dict.fromkeys(new)
        left += new
    return list(found)


def before_those_that_read(stages: Iterable[PlannedStage]) -> list[PlannedStage]:
    """Stages in an order in which each comes after those that it reads from.

    Args:
        stages: With all that they are made from.
    """
    order = TopologicalSorter({stage: stage.reads.values() for stage in stages})
    return list(order.static_order())


def _digits(key: str) -> str:
    return hex_digits(key)[:_KEY_DIGITS]


def _pointers(folder: Path, name: str) -> Iterator[Path]:
    """The names of a stage's pointers, in the order in which they are taken."""
    first = folder / f"{name}.json"
    yield first
    yield from (first.with_name(f"{name}-{number}.json") for number in itertools.count(2))


def _free_pointer(folder: Path, name: str) -> Path:
    return next(pointer for pointer in _pointers(folder, name) if not pointer.is_file())


RESULTS = ("seal_release", "sign_release", "render_family", "render_verdict")
"""The stages that a run is for."""


@dataclass
class Plan:
    """The stages of one release.

    Attributes:
        folder: `results/<release>`.
        store: What keeps the artifacts.
        stages: By name, those that were added.
        together: The plans of all releases of the run; one that is alone has its own.
    """

    folder: Path
    store: Store
    stages: dict[str, PlannedStage] = field(default_factory=dict[str, PlannedStage])
    together: "Plans" = field(default_factory=lambda: Plans())

    def __post_init__(self) -> None:
        self.together.plans[self.folder.name] = self

    def add(
        self,
        stage: str,
        *,
        reads: Iterable[str] | Mapping[str, PlannedStage] = (),
        files: Iterable[Path] = (),
        settings: Mapping[str, Any],
        environment: str,
        is_outdated: Callable[[Mapping[str, Any]], bool] = lambda _manifest: False,
    ) -> PlannedStage:
        """Plan a stage.

        Args:
            stage: Its name, and that of its module in `scion.stages`.
            reads: The stages it reads from, which were added before: of this release by their
                names; or stages of any release by what it calls them.
            files: Plain files that it reads.
            settings: What else its command line says, JSON-able.
            environment: Identity of its environment.
            is_outdated: Whether what a manifest describes answers nothing any more.
        """
        upstream = (
            dict(reads)
            if isinstance(reads, Mapping)
            else {name: self.stages[name] for name in reads}
        )
        # A file that is missing is for Snakemake to tell.
        sums = [(path, self._digest(path) if path.is_file() else None) for path in files]
        code = self.together.code(stage)
        asked = {
            "files": [[path.name, sha256] for path, sha256 in sums],
            "settings": dict(settings),
            "code": code,
            "environment": environment,
        }
        reads_from = {name: planned.key for name, planned in upstream.items()}
        key = digest_json({"stage": stage, "reads": reads_from, **asked})
        require_link(self.folder / stage)
        if key not in self.together.stages:
            name = f"{stage}-{_digits(key)}"
            expected = Expectation(code, tuple((path.name, sha256) for path, sha256 in sums))
            pointer, is_made = self._pointer(stage, name, is_outdated)
            planned = PlannedStage(
                *(stage, key, pointer, upstream, expected.to_json(), asked),
                is_made=is_made,
                is_dropped=is_made and self._is_dropped(pointer),
            )
            self.together.stages[key] = planned
            self.together.pointers[pointer] = planned
        self.stages[stage] = self.together.stages[key]
        return self.stages[stage]

    def _digest(self, path: Path) -> str:
        """The digest of a plain file; one that did not change since an earlier plan is not read."""
        return self.store.known.digest(path).sha256

    def _pointer(
        self, stage: str, name: str, is_outdated: Callable[[Mapping[str, Any]], bool]
    ) -> tuple[Path, bool]:
        """The pointer of a stage: a sound one of any release of the run, or a new one of this.

        Returns:
            The pointer, and whether it is a sound one.
        """
        folders = [self.folder, *self.together.holders(f"{name}.json")]
        found = [self._last(stage, folder, name, is_outdated) for folder in dict.fromkeys(folders)]
        return next((each for each in found if each[1]), found[0])

    def _is_dropped(self, pointer: Path) -> bool:
        """Whether the weights of what a pointer names were dropped."""
        if not self.store.dropped.folder.is_dir():
            return False
        manifest = find_manifest(pointer)
        return manifest is not None and bool(self.store.dropped.of(manifest["content"]))

    def _last(
        self, stage: str, folder: Path, name: str, is_outdated: Callable[[Mapping[str, Any]], bool]
    ) -> tuple[Path, bool]:
        """The last pointer in a release's folder whose artifact is sound, or a new one.

        One whose artifact is gone, damaged or outdated answers nothing; another store may have its
        artifact, so it stays, and the next name is taken.

        Returns:
            The pointer, and whether it is a sound one.
        """
        taken = itertools.takewhile(Path.is_file, _pointers(folder / POINTERS, name))
        sound = [pointer for pointer in taken if self._is_sound(stage, pointer, is_outdated)]
        return (sound[-1], True) if sound else (_free_pointer(folder / POINTERS, name), False)

    def _is_sound(
        self, stage: str, pointer: Path, is_outdated: Callable[[Mapping[str, Any]], bool]
    ) -> bool:
        """Whether a pointer's artifact is here as it was made; takes the date off the pointer.

        Snakemake runs a rule whose input is newer than its output. Here names tell, so all
        pointers get one date, whenever they were written and wherever they were copied to.
        """
        manifest = find_manifest(pointer)
        if manifest is None or is_outdated(manifest):
            return False
        artifact = Artifact(self.store.place(manifest["content"]), manifest)
        if artifact.stage != stage or not artifact.folder.is_dir():
            return False
        if damage := self.store.damage(artifact):
            for line in damage:
                print(f"{artifact.folder}: {line}; it is made anew", file=sys.stderr)
            return False
        with contextlib.suppress(OSError):
            os.utime(pointer, (_DATE, _DATE))
        return True

    def all_of(self, stage: str) -> list[PlannedStage]:
        """A stage and all that it is made from, each once; none if the release has no such."""
        planned = self.stages.get(stage)
        return planned.with_reads() if planned is not None else []

    def show(self) -> None:
        """Let the results folder show what this plan has, and nothing else."""
        pointers = {name: planned.pointer for name, planned in self.stages.items()}
        show_all(self.folder, pointers, self.store)

    def keep(self) -> None:
        """Keep everything that this plan points to until the process ends."""
        self.store.leases.take(str(planned.pointer.resolve()) for planned in self.stages.values())


@dataclass
class Plans:
    """The plans of the releases of a run.

    Attributes:
        plans: By release.
        stages: By key, each stage once, whichever releases ask for it.
        pointers: The same, by their pointers.
    """

    plans: dict[str, Plan] = field(default_factory=dict[str, Plan])
    stages: dict[str, PlannedStage] = field(default_factory=dict[str, PlannedStage])
    pointers: dict[Path, PlannedStage] = field(default_factory=dict[Path, PlannedStage])
    _codes: dict[str, str] = field(default_factory=dict[str, str])
    _listed: set[Path] = field(default_factory=set[Path])
    _holders: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])

    def code(self, stage: str) -> str:
        """The digest of a stage's code; of all releases of a run it is one, and looked at once."""
        if stage not in self._codes:
            self._codes[stage] = code_digest(f"scion.stages.{stage}")
        return self._codes[stage]

    def holders(self, name: str) -> list[Path]:
        """The folders of releases that hold a pointer of that name.

        Each is listed once, when it is first asked for: a family of hundreds has thousands of
        pointers, which would be looked for in each of its folders.
        """
        if len(self._listed) < len(self.plans):
            for folder in {plan.folder: None for plan in self.plans.values()}:
                if folder not in self._listed:
                    self._listed.add(folder)
                    with contextlib.suppress(OSError):
                        for held in os.listdir(folder / POINTERS):
                            self._holders.setdefault(held, []).append(folder)
        return self._holders.get(name, [])

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.plans.values())

    def all_of(self, *stages: str) -> list[PlannedStage]:
        """Stages of all releases and what they are made from, each once."""
        named = [plan.stages[stage] for plan in self for stage in stages if stage in plan.stages]
        return all_made_from(named)

    def settle(self, wanted: Iterable[PlannedStage]) -> None:
        """Have weights made again that were dropped, where a stage that has to run reads them.

        Called once all stages are planned: what has to run is not known before.

        Args:
            wanted: The stages that the run is to give, with all that they are made from.
        """
        for reader in reversed(before_those_that_read(wanted)):
            if reader.is_made or reader.name in READ_RECORDS:
                continue
            for read in reader.reads.values():
                if read.is_made and read.is_dropped:
                    del self.pointers[read.pointer]
                    read.before = read.pointer
                    folder, name = read.pointer.parent, f"{read.name}-{read.digits}"
                    read.pointer = _free_pointer(folder, name)
                    read.is_made = False
                    self.pointers[read.pointer] = read

    def releases(self, planned: PlannedStage) -> list[str]:
        """The releases that ask for a stage."""
        return [
            name for name, plan in self.plans.items() if plan.stages.get(planned.name) is planned
        ]
