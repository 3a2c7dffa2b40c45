"""Fetch the bf16 checkpoint: a local folder by clone or hard link, or the hub's at a commit.

Only what a release can use is taken, by a list of names (`scion.checkpoint.release_files`): shards
and their index, config, tokenizer, chat template, processor files, licence; no code, no pickle, and
nothing that a link brings from outside of the checkpoint. Every file and every tensor is hashed
here once; later stages compare with these digests. Downloads from the hub wait in the store until
all are there, so an interrupted fetch goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.hub.client import download_files, list_files
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.checkpoint.hub.lock import LockedFiles, locked_in
from scion.checkpoint.hub.lock_check import require_bytes, require_locked
from scion.checkpoint.local_files import local_files
from scion.checkpoint.preview import open_pinned, supported_family
from scion.checkpoint.release_files import released
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.common.progress import doing, progress
from scion.stages.common_options import add_locks, run_stage, stage_parser


def fetch_source(
    *,
    location: str,
    output: Output,
    environment: str,
    planned: tuple[str, str] | None = None,
    locked: LockedFiles | None = None,
    stage: str = "fetch_source",
) -> Artifact:
    """Bring a checkpoint here and record the digest of every file and tensor.

    Args:
        location: A local folder, or `hf://owner/name@<commit>`.
        output: Where the artifact goes.
        environment: Identity of the locked environment.
        planned: What the plan of this run calls the files of a local folder, and how they looked.
        locked: What the files of a repository have to be; None where nobody has locked them.
        stage: The stage that fetches; its name stands in the manifest.

    Raises:
        ScionError: No such place, a revision that is not a commit, files that are not the locked
            ones, an architecture that releases are not made of, shards and index that do not fit
            together, or local files that changed since the run was planned.
    """
    place = parse_location(location)
    # A local folder counts by what is in it, a repository by its commit.
    here = list[Path]()
    if isinstance(place, LocalFolder):
        try:
            supported_family(open_pinned(location))
            here = local_files(place.path)
        except ScionError as error:
            # The plan has listed the same files a moment ago.
            raise _changed(error) if planned else error from error
    if here:
        print(f"{stage}: hashing what is new of {len(here)} files", file=sys.stderr)
        doing(f"hashing what is new of {len(here)} files")

    def build(draft: Draft) -> None:
        folder = draft.work
        if isinstance(place, HubRepository):
            # Before gigabytes are moved for nothing.
            if locked is not None:
                require_locked(place, locked)
            supported_family(open_pinned(location))
            _download(place, folder)
        else:
            folder = place.path
        # Where it comes from, so that an error names a file that is still there afterwards.
        checkpoint = Checkpoint.open(folder)
        print(f"{stage}: taking {len(checkpoint.headers)} shards", file=sys.stderr)
        doing(f"taking {len(checkpoint.headers)} shards")
        for path in local_files(folder):
            draft.take(path, path.name)
        draft.hash_files()
        draft.facts |= {
            "location": location,
            "tensors": len(checkpoint.shard_of),
            "bytes": sum(checkpoint.tensor(name).size for name in checkpoint.shard_of),
        }

    artifact = remake(
        output,
        stage=stage,
        inputs={path.name: path for path in here},
        settings={"location": location},
        environment=environment,
        build=build,
    )
    if isinstance(place, HubRepository) and locked is not None:
        # Of one that an earlier run has fetched, too.
        for name, entry in artifact.files.items():
            if name in locked:
                require_bytes(place, name, entry["sha256"], locked)
    if here:
        content = artifact.content
        output.store.sources.note(stage, here, planned=planned, content=content, read=True)
    return artifact


def _changed(error: ScionError) -> ScionError:
    return ScionError(
        "the checkpoint's files changed since the run was planned",
        where=error.where,
        expected="the files that were there then",
        found=error.problem,
        hint="run again once nobody writes to them: what is there then is taken",
    )


def _download(repository: HubRepository, folder: Path) -> None:
    files = list_files(repository)
    names = released(files)
    total = sum(files[name].size for name in names)
    with progress(f"download of {repository.name}", total, unit="B") as told:

        def advance(_name: str, size: int) -> None:
            told.advance(amount=size)

        download_files(repository, names, folder, progress=advance)


def main() -> int:
    """Parse arguments and run the stage."""
    return run_fetch(__doc__, stage="fetch_source")


def run_fetch(description: str | None, *, stage: str) -> int:
    """The `main` of a stage that fetches a whole checkpoint.

    Args:
        description: The stage module's docstring.
        stage: The stage.

    Returns:
        The exit code.
    """
    parser = stage_parser(description, inputs={})
    add_location(parser)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: fetch_source(
            location=args.location,
            output=output,
            environment=args.environment,
            planned=planned_source(args),
            locked=locked_source(args),
            stage=stage,
        ),
    )


def add_location(parser: argparse.ArgumentParser) -> None:
    """Add the options that all fetch stages have."""
    parser.add_argument(
        "--location", required=True, help="local folder, or hf://owner/name@<40-digit commit>"
    )
    add_locks(parser)
    parser.add_argument(
        "--planned",
        nargs="*",
        metavar="DIGEST",
        help="what the plan of the run calls the files of a local folder, and how they looked",
    )


def planned_source(args: argparse.Namespace) -> tuple[str, str] | None:
    """The two values of `--planned`, if they were given."""
    values = args.planned or []
    return (values[0], values[1]) if len(values) == 2 else None


def locked_source(args: argparse.Namespace) -> LockedFiles | None:
    """What the locks of the command line say of its location."""
    return locked_in(args.lock, args.location)


if __name__ == "__main__":
    sys.exit(main())
