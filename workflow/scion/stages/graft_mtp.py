"""Graft the donor's bf16 MTP head onto the quantized checkpoint.

The head is the donor's own shard, hard-linked, so its tensors are the donor's bit for bit; the
quantized shards are hard-linked too. Only the index is written, and both config files where their
exclusion lists did not name the head yet.
"""

import sys
from pathlib import Path
from typing import Any

from scion.architectures import inventory
from scion.artifact import Artifact, Draft, remake
from scion.checkpoint import INDEX, Checkpoint, index_headers, read_json
from scion.errors import ScionError
from scion.files import write_json
from scion.nvfp4_config import HF_QUANT_CONFIG, MTP_PATTERN, hf_quant_config
from scion.stage_cli import run_stage, stage_parser


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
        expected = inventory(checkpoint.config, where=quantized.folder / "config.json").mtp
        _check_donor(donor, expected)
        draft.link_all(quantized, but={INDEX, "config.json", HF_QUANT_CONFIG})
        rows = donor.tensors().values()
        head = sorted({row["file"] for row in rows})
        for shard in head:
            draft.link(donor, shard)
        index_headers(draft.folder, [*checkpoint.headers, *head])
        config = with_mtp_excluded(checkpoint.config)
        if config == checkpoint.config:
            draft.link(quantized, "config.json")
            draft.link(quantized, HF_QUANT_CONFIG)
        else:
            write_json(draft.folder / "config.json", config)
            scheme = hf_quant_config(config["quantization_config"])
            write_json(draft.folder / HF_QUANT_CONFIG, scheme)
        draft.facts |= {
            "mtp_tensors": len(expected),
            "mtp_bytes": sum(row["range"][1] - row["range"][0] for row in rows),
            "donor": donor.facts["location"],
        }

    return remake(
        output,
        stage="graft_mtp",
        inputs={"quantized": quantized, "donor": donor},
        settings={},
        environment=environment,
        build=build,
    )


def with_mtp_excluded(config: dict[str, Any]) -> dict[str, Any]:
    """config.json whose exclusion list names the MTP head, unchanged if it does already."""
    scheme = config["quantization_config"]
    if MTP_PATTERN in scheme["ignore"]:
        return config
    ignore = [*scheme["ignore"], MTP_PATTERN]
    return {**config, "quantization_config": {**scheme, "ignore": ignore}}


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
