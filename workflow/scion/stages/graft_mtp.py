"""Graft the donor's bf16 MTP head onto the quantized checkpoint.

The head is the donor's own shard, hard-linked, so its tensors are the donor's bit for bit; the
quantized shards are hard-linked too. Only the index is written, and config.json, which declares the
head from here on.
"""

import sys
from pathlib import Path

from scion.architectures.inventory import inventory, with_mtp_layers
from scion.artifacts.artifact import Artifact, Draft, remake
from scion.checkpoint.shards import INDEX, Checkpoint, index_headers, read_json
from scion.common.errors import ScionError
from scion.common.files import link_or_copy, write_json
from scion.stages.common_options import run_stage, stage_parser


def graft_mtp(*, quantized: Artifact, donor: Artifact, output: Path, environment: str) -> Artifact:
    """Put a quantized checkpoint and a donor's MTP head together.

    Args:
        quantized: The NVFP4 checkpoint.
        donor: The MTP tensors, as `fetch_donor` leaves them.
        output: Folder of the artifact to make.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The donor's tensors do not have the names, shapes and dtype that the target's
            config.json implies.
    """

    def build(draft: Draft) -> None:
        checkpoint = Checkpoint.open(quantized.folder)
        config = with_mtp_layers(checkpoint.config, _layers(donor))
        expected = inventory(config, where=quantized.folder / "config.json").mtp
        _check_donor(donor, expected)
        draft.link_all(quantized, but={INDEX, "config.json"})
        rows = donor.tensors().values()
        head = _head_shards(donor)
        for shard in head:
            draft.link(donor, shard)
        index_headers(draft.folder, [*checkpoint.headers, *head])
        write_json(draft.folder / "config.json", config)
        draft.facts |= {
            "mtp_tensors": len(expected),
            "mtp_bytes": sum(row["range"][1] - row["range"][0] for row in rows),
            "donor": donor.facts["location"],
            "recipe": quantized.facts["recipe"],
        }

    return remake(
        output,
        stage="graft_mtp",
        inputs={"quantized": quantized, "donor": donor},
        settings={},
        environment=environment,
        build=build,
    )


def add_head(folder: Path, donor: Artifact) -> None:
    """Graft the head onto a checkpoint in a folder that is no artifact.

    Raises:
        ScionError: As `graft_mtp` does.
    """
    checkpoint = Checkpoint.open(folder)
    config = with_mtp_layers(checkpoint.config, _layers(donor))
    _check_donor(donor, inventory(config, where=folder / "config.json").mtp)
    head = _head_shards(donor)
    for shard in head:
        link_or_copy(donor.folder / shard, folder / shard)
    index_headers(folder, [*checkpoint.headers, *head])
    write_json(folder / "config.json", config)


def _head_shards(donor: Artifact) -> list[str]:
    return sorted({row["file"] for row in donor.tensors().values()})


def _layers(donor: Artifact) -> int:
    """The number of MTP layers that the donor's config.json declares."""
    text = read_json(donor.folder / "config.json").get("text_config", {})
    return text.get("mtp_num_hidden_layers", 0)


def _check_donor(donor: Artifact, expected: dict[str, tuple[int, ...]]) -> None:
    found = {name: (row["dtype"], tuple(row["shape"])) for name, row in donor.tensors().items()}
    wanted = {name: ("BF16", shape) for name, shape in expected.items()}
    if found == wanted:
        return
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            hidden = read_json(donor.folder / "config.json").get("text_config", {})
            raise ScionError(
                "the donor's MTP head does not fit the target",
                where=f"{donor.facts['location']}: {name}",
                expected=_spell(wanted.get(name)),
                found=f"{_spell(found.get(name))} (donor hidden_size {hidden.get('hidden_size')})",
                hint="set `donor` to the base model that the source was fine-tuned from",
            )


def _spell(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "no such tensor" if tensor is None else f"{tensor[0]} {list(tensor[1])}"


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={"quantized": "manifest of quantize_nvfp4", "donor": "manifest of fetch_donor"},
    )
    args = parser.parse_args()
    return run_stage(
        lambda: graft_mtp(
            quantized=Artifact.open(args.quantized),
            donor=Artifact.open(args.donor),
            output=args.output.parent,
            environment=args.environment,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
