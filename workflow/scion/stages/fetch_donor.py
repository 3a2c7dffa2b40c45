"""Fetch the donor's MTP head, and next to nothing else of it: config.json, the ranges of `mtp.*`.

Of a 55 GB checkpoint that moves the headers of the shards in question and 0.8 GB. The tensors
become one safetensors file, which `graft_mtp` links into the release as it is. A few rows of the
embeddings and norms come along in `kinship.json`: by them `graft_mtp` sees whether the source was
fine-tuned from the donor (`scion.checkpoint.kinship`).
"""

import sys
from hashlib import sha256

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.store.known_files import KnownFiles
from scion.checkpoint.donor_head import DonorHead, find_head
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.hub.lock import LockedFiles
from scion.checkpoint.hub.lock_check import require_locked
from scion.checkpoint.kinship import SAMPLE, sample_weights
from scion.checkpoint.local_files import usable_files
from scion.checkpoint.preview import open_pinned
from scion.checkpoint.shards import CONFIG
from scion.common.digest import digest_json
from scion.common.files import write_json
from scion.stages.common_options import run_stage, stage_parser
from scion.stages.fetch_source import add_location, locked_source, planned_source

STAGE = "fetch_donor"
MTP_SHARD = "model-mtp.safetensors"


def fetch_donor(
    *,
    location: str,
    output: Output,
    environment: str,
    planned: tuple[str, str] | None = None,
    locked: LockedFiles | None = None,
) -> Artifact:
    """Take the MTP tensors of a checkpoint.

    Args:
        location: A local folder, or `hf://owner/name@<commit>`.
        output: Where the artifact goes: config.json, `model-mtp.safetensors`, `kinship.json`.
        environment: Identity of the locked environment.
        planned: What the plan of this run calls the files of a local folder, and how they looked.
        locked: What the hub has to list of a repository; None where nobody has locked it. Of what
            comes by ranges no digest of a file can tell.

    Raises:
        ScionError: The donor has no MTP head, its files can't be read, or they changed since the
            run was planned.
    """
    place = parse_location(location)
    settings: dict[str, object] = {"location": location}
    # A repository counts by its commit, a local folder by what is taken of it.
    local, sums, sample = None, dict[str, str](), None
    if not isinstance(place, HubRepository):
        local = find_head(open_pinned(location), location)
        sample = sample_weights(local.source, location)
        sums = _digests(local, output.store.known)
        settings["head"] = digest_json({CONFIG: sha256(local.config).hexdigest(), **sums})
        settings["sample"] = digest_json(sample)

    def build(draft: Draft) -> None:
        if isinstance(place, HubRepository) and locked is not None:
            require_locked(place, locked)
        head = local or find_head(open_pinned(location), location)
        (draft.folder / CONFIG).write_bytes(head.config)
        write_json(draft.folder / SAMPLE, sample or sample_weights(head.source, location))
        head.write(draft.folder / MTP_SHARD)
        draft.known_tensors |= sums
        size = sum(tensor.size for _, tensor in head.tensors)
        draft.facts |= {"location": location, "mtp_tensors": len(head.tensors), "mtp_bytes": size}

    artifact = remake(
        output,
        stage=STAGE,
        inputs={},
        settings=settings,
        environment=environment,
        build=build,
    )
    if not isinstance(place, HubRepository):
        files, content = usable_files(place.path), artifact.content
        # A part of them was read, and nothing of them is linked.
        output.store.sources.note(STAGE, files, planned=planned, content=content, read=False)
    return artifact


def _digests(head: DonorHead, known: KnownFiles) -> dict[str, str]:
    """Hex SHA-256 of the raw bytes by tensor name.

    Args:
        head: The head.
        known: Files of a folder that were read before; tensors of others are read.
    """
    folder, sums = head.source.folder, dict[str, str]()
    for shard, tensor in head.tensors:
        file = known.get(folder / shard) if folder else None
        sums[tensor.name] = file.tensors.get(tensor.name, "") if file else ""
        if not sums[tensor.name]:
            digest = sha256()
            for chunk in head.stream(shard, tensor):
                digest.update(chunk)
            sums[tensor.name] = digest.hexdigest()
    return sums


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={})
    add_location(parser)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: fetch_donor(
            location=args.location,
            output=output,
            environment=args.environment,
            planned=planned_source(args),
            locked=locked_source(args),
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
