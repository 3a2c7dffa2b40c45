"""Making artifacts: `remake` gives the one that is asked for, out of the store or by building it.

A stage builds in a folder of its recipe's own, `work/<recipe>/` in the store. The artifact enters
the store whole, by one rename; its record is written after it, and the pointer last. So whatever
stops a stage, and wherever, there is either the artifact that was asked for or none.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.code_digest import code_digest
from scion.artifacts.results import show
from scion.artifacts.store.dropped import READ_RECORDS
from scion.artifacts.store.store import UNUSABLE, Store, unusable
from scion.checkpoint.safetensors_file import FileDigest
from scion.common.digest import digest_json, in_parallel
from scion.common.errors import ScionError
from scion.common.files import copy_file, write_json
from scion.common.progress import progress

FOUND = "the store has it"
"""What a stage says that need not make anything."""


@dataclass(frozen=True)
class Expectation:
    """What a run's plan took for granted of a stage, and its pointer's name answers for.

    Attributes:
        code: Digest of the stage's code.
        files: Name and hex SHA-256 of each plain file that it reads; None for one that was missing.
    """

    code: str
    files: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def read(cls, text: str) -> "Expectation":
        """Read what `to_json` wrote."""
        content = json.loads(text)
        return cls(content["code"], tuple((name, sha256) for name, sha256 in content["files"]))

    def to_json(self) -> str:
        """As the option `--plan` of a stage has it."""
        return json.dumps({"code": self.code, "files": self.files})

    def require(self, code: str, files: Mapping[str, str]) -> None:
        """Refuse to go on under a name that stands for something else.

        Args:
            code: Digest of the stage's code now.
            files: Hex SHA-256 by name of the plain files that it has read.

        Raises:
            ScionError: Code or files were edited since the run was planned.
        """
        planned: dict[str, set[str | None]] = {}
        for name, sha256 in self.files:
            planned.setdefault(name, set()).add(sha256)
        edited = [
            name for name, sha256 in files.items() if sha256 not in planned.get(name, {sha256})
        ]
        if code != self.code or edited:
            raise ScionError(
                "something was edited since the run was planned",
                where=", ".join(edited) or "the stage's code, or what it imports",
                expected="what was there when the run began",
                found="another content",
                hint="run again: what is there now is taken",
            )


@dataclass(frozen=True)
class Output:
    """Where a stage's artifact goes.

    Attributes:
        pointer: The JSON file that will hold its manifest, what a rule declares.
        store: What keeps its files.
        copies: A folder for copies of its pictures and texts, which `snakemake --report` takes up.
        plan: What the run's plan expects; None without one.
    """

    pointer: Path
    store: Store
    copies: Path | None = None
    plan: Expectation | None = None

    @classmethod
    def at(cls, path: Path) -> "Output":
        """An output for use without a workflow.

        Args:
            path: Will be a link to the artifact's files. Its pointer gets the same name with
                `.json` behind it, and `.store` in the same folder keeps the files.
        """
        pointer = path.with_name(f"{path.name}.json")
        return cls(pointer, Store.open([str(path.parent / ".store")]))

    def write(self, artifact: Artifact) -> None:
        """Point to an artifact that the store has."""
        if self.copies is not None:
            for name in artifact.files:
                if name.endswith((".md", ".svg")):
                    (self.copies / name).parent.mkdir(parents=True, exist_ok=True)
                    (self.copies / name).unlink(missing_ok=True)
                    copy_file(artifact.folder / name, self.copies / name)
        write_json(self.pointer, artifact.manifest)
        show(self.pointer, artifact, self.store)


def remake(
    output: Output,
    *,
    stage: str,
    inputs: Mapping[str, Artifact | Path],
    settings: Mapping[str, Any],
    environment: str,
    build: Callable[[Draft], None],
    quotes_manifests: bool = False,
    is_outdated: Callable[[Mapping[str, Any]], bool] = lambda _manifest: False,
) -> Artifact:
    """Give what a stage is asked for: from the store, or by `build` if no recipe gave it yet.

    Args:
        output: Where it goes.
        stage: Name of the stage and of its module in `scion.stages`.
        inputs: The artifacts, and plain files such as a template, that the stage reads.
        settings: JSON-able settings of the stage.
        environment: Identity of the locked environment, `sha256:…` of its lock.
        build: Fills a draft. If it raises, nothing of it stays but what it put into `draft.work`.
        quotes_manifests: The stage passes on how its inputs were made, so that inputs of the same
            bytes count as others if something else made them.
        is_outdated: Whether what a manifest describes is made again, though the recipe is the same.

    Raises:
        ScionError: What `build` raises; the store can't be used; the code changed meanwhile.
    """
    store = output.store
    try:
        files = [source for source in inputs.values() if isinstance(source, Path)]
        sums = _digests(store, files)
        code = code_digest(f"scion.stages.{stage}")
        request = {
            "stage": stage,
            "made_from": {
                name: _artifact_entry(source, by_root=quotes_manifests)
                if isinstance(source, Artifact)
                else {"file": source.name, "sha256": sums[source].sha256}
                for name, source in inputs.items()
            },
            "settings": dict(settings),
            "code": code,
            "environment": environment,
        }
        if output.plan is not None:
            output.plan.require(code, {path.name: sums[path].sha256 for path in files})
        recipe = digest_json(request)
        needed = [source.content for source in inputs.values() if isinstance(source, Artifact)]
        with store.leases.lease([*needed, recipe]):
            artifact = store.find(recipe)
            if artifact is not None and not is_outdated(artifact.manifest):
                print(f"{stage}: {FOUND}", file=sys.stderr)
                store.tidy(recipe)
            else:
                _require_weights(store, stage, inputs)
                artifact = _make(store, request, build, is_outdated)
            store.share(artifact)
            output.write(artifact)
    except OSError as error:
        if error.errno in UNUSABLE:
            raise unusable(store.folder, error) from error
        raise
    return artifact


def _digests(store: Store, files: list[Path]) -> dict[Path, FileDigest]:
    """The digests of plain files; those that are known are not read."""
    with progress("hashing", sum(path.stat().st_size for path in files), unit="B") as told:

        def digest(path: Path) -> FileDigest:
            found = store.known.digest(path)
            told.advance(amount=found.size)
            return found

        return dict(zip(files, in_parallel(digest, files), strict=True))


def _artifact_entry(source: Artifact, *, by_root: bool) -> dict[str, str]:
    """An input as manifests name it: by its files and facts, or by all that made it."""
    entry = {"stage": source.stage, "content": source.content}
    return entry | ({"root": source.root} if by_root else {"facts": digest_json(source.facts)})


def _require_weights(store: Store, stage: str, inputs: Mapping[str, Artifact | Path]) -> None:
    """Refuse to begin without weights that are to be read, which a plan would have made again."""
    if stage in READ_RECORDS:
        return
    for name, source in inputs.items():
        if isinstance(source, Artifact) and (dropped := store.dropped.of(source.content)):
            raise ScionError(
                "weights that the stage reads were dropped from the store",
                where=f"{source.folder}: {next(iter(dropped))}",
                expected=f"the shards of {source.stage}, which {stage} takes as {name}",
                found="its record and small files alone, since `scratch.drop_weights` is true",
                hint="run the workflow again, without --forcerun, and with no pointer as target: "
                "its plan has them made anew",
            )


def _make(
    store: Store,
    request: Mapping[str, Any],
    build: Callable[[Draft], None],
    is_outdated: Callable[[Mapping[str, Any]], bool],
) -> Artifact:
    stage, recipe = request["stage"], digest_json(request)
    with store.claim(recipe, stage=stage) as claimed:
        # Another process may have made it while this one waited.
        artifact = store.find(recipe)
        if artifact is not None and not is_outdated(artifact.manifest):
            return artifact
        draft = Draft(claimed / "draft", claimed / "kept", recipe, store.known)
        store.known.remove(draft.folder)
        try:
            draft.folder.mkdir(parents=True)
            build(draft)
            manifest = draft.finish(request)
            _require_same_code(request)
            artifact = store.commit(draft.folder, manifest, draft.written)
        except BaseException:
            store.known.remove(draft.folder)
            raise
        store.known.remove(draft.work)
        return artifact


def _require_same_code(request: Mapping[str, Any]) -> None:
    """What was edited while it ran may have run in part: such an artifact has no true recipe."""
    now = code_digest(f"scion.stages.{request['stage']}")
    if now != request["code"]:
        raise ScionError(
            "the stage's code was edited while it ran",
            where=f"scion.stages.{request['stage']} and what it imports",
            expected=request["code"],
            found=now,
            hint="run again; nothing of this run is kept",
        )
