"""Fetch the bf16 checkpoint: from a local folder by hard link, or from the hub at a commit.

Only what a release can use is taken: safetensors shards and their index, config, tokenizer, chat
template, processor files, licence. Every file and every tensor is hashed here once; later stages
compare with these digests. Downloads from the hub wait beside the artifact until all are there, so
an interrupted fetch goes on where it stopped.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm import tqdm

from scion.artifacts.artifact import Artifact, Draft, remake
from scion.checkpoint.hub.client import download_files, list_files
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.common.files import link_or_copy
from scion.stages.common_options import run_stage, stage_parser

FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*processor_config.json",
    "LICENSE*",
)


def fetch_source(
    *, location: str, output: Path, environment: str, stage: str = "fetch_source"
) -> Artifact:
    """Bring a checkpoint here and record the digest of every file and tensor.

    Args:
        location: A local folder, or `hf://owner/name@<commit>`.
        output: Folder of the artifact to make.
        environment: Identity of the locked environment.
        stage: The stage that fetches; its name stands in the manifest.

    Raises:
        ScionError: No such place, a revision that is not a commit, or shards and index that do
            not fit together.
    """
    place = parse_location(location)
    download = output.with_name(f".{output.name}.download")

    def build(draft: Draft) -> None:
        if isinstance(place, HubRepository):
            _download(place, download)
            folder = download
        else:
            folder = _local_folder(place)
        # Where it comes from, so that an error names a file that is still there afterwards.
        checkpoint = Checkpoint.open(folder)
        names = wanted(path.name for path in folder.iterdir() if path.is_file())
        for name in sorted({*names, *checkpoint.headers}):
            link_or_copy(folder / name, draft.folder / name)
        print(f"hashing {len(checkpoint.headers)} shards", file=sys.stderr)
        draft.hash_files()
        draft.facts |= {
            "location": location,
            "tensors": len(checkpoint.shard_of),
            "bytes": sum(checkpoint.tensor(name).size for name in checkpoint.shard_of),
        }

    artifact = remake(
        output,
        stage=stage,
        inputs={},
        settings={"location": location},
        environment=environment,
        build=build,
        volatile=not isinstance(place, HubRepository),
    )
    shutil.rmtree(download, ignore_errors=True)
    return artifact


def wanted(names: Iterable[str]) -> list[str]:
    """The names that a release can use, sorted."""
    return sorted(name for name in names if any(fnmatchcase(name, glob) for glob in FILES))


def _local_folder(place: LocalFolder) -> Path:
    if not place.path.is_dir():
        raise ScionError(
            "the checkpoint's folder is not there",
            where=place.path,
            expected="a folder with config.json and safetensors files",
            found="a file" if place.path.exists() else "nothing",
            hint="correct the location in the config; paths count from the project's folder",
        )
    return place.path


def _download(repository: HubRepository, folder: Path) -> None:
    files = list_files(repository)
    names = wanted(files)
    total = sum(files[name].size for name in names)
    with tqdm(total=total, unit="B", unit_scale=True, desc=repository.name) as bar:

        def advance(_name: str, size: int) -> None:
            bar.update(size)

        download_files(repository, names, folder, progress=advance)


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={})
    add_location(parser)
    args = parser.parse_args()
    return run_stage(
        lambda: fetch_source(
            location=args.location, output=args.output.parent, environment=args.environment
        )
    )


def add_location(parser: argparse.ArgumentParser) -> None:
    """Add the option that both fetch stages have."""
    parser.add_argument(
        "--location", required=True, help="local folder, or hf://owner/name@<40-digit commit>"
    )


if __name__ == "__main__":
    sys.exit(main())
