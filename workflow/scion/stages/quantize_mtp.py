"""Store the matrices of a trained MTP head in FP8 or NVFP4 instead of bf16.

Every draft reads the whole head, of a 27B 850 MB; with its matrices in FP8 it is 477, in NVFP4 314.
The projections of its decoder layer are packed with maximum scales; norms and `fc` stay, and so
does the body, file by file. heal_mtp has seen the inputs that the scales of activations are made
of. config.json declares the head from here on, module by module, where it was excluded as a whole.
"""

import sys
from typing import get_args

from scion.architectures.families import family_of, in_head
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.origins import packed_origins
from scion.artifacts.release_layout import HEAD_QUANTIZED
from scion.checkpoint.replaced_tensors import copy_replacing
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint, index_headers
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.formats.spellings import DEFAULT_SPELLING, declared_spelling
from scion.formats.stored_modules import HeadScheme, head_algorithm
from scion.quantization.respelling import declared_besides, excluding
from scion.stages.common_options import run_stage, stage_parser


def quantize_mtp(
    *, release: Artifact, scheme: HeadScheme, output: Output, environment: str
) -> Artifact:
    """Quantize the head of a release.

    Args:
        release: The artifact of heal_mtp.
        scheme: `fp8` or `nvfp4`; with the latter inputs are rounded as those of the body are.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Returns:
        The artifact; its facts are those of `release`, and `quantized_head`: the algorithm, the
        modules that have it, and the bytes of the whole head.

    Raises:
        ScionError: The release has no head in bf16; as
            `scion.quantization.quantized_head.quantized_head`.
    """

    def build(draft: Draft) -> None:
        # Here, because torch takes seconds to import, and the store may have the artifact.
        from scion.quantization.quantized_head import quantized_head

        checkpoint = Checkpoint.open(release.folder)
        spelling = declared_spelling(checkpoint.config) or DEFAULT_SPELLING
        algorithm = head_algorithm(scheme, release.facts["recipe"]["four_bits"])
        if algorithm is None:
            raise ValueError("a head that stays bf16 is not quantized")
        exclude = _excluded(checkpoint)
        head = quantized_head(release, algorithm, spelling)
        shards = {checkpoint.shard_of[name] for name in head.tensors}
        draft.link_all(release, but={*shards, INDEX, CONFIG, *spelling.sidecars})
        for shard in shards:
            copy_replacing(release.folder / shard, draft.folder / shard, head.tensors)
        index_headers(draft.folder, checkpoint.headers)
        declared, sidecars = excluding(
            checkpoint, exclude, quantized=dict.fromkeys(head.modules, algorithm)
        )
        write_json(draft.folder / CONFIG, {**checkpoint.config, "quantization_config": declared})
        for name, content in sidecars.items():
            write_json(draft.folder / name, content)
        draft.hash_files()
        rows, before = draft.tensor_table(), release.tensors()
        origins = {name: row["origin"] for name, row in before.items()}
        draft.origins |= packed_origins(origins, rows, before)
        ranges = [row["range"] for name, row in rows.items() if in_head(name)]
        draft.facts |= {
            **release.facts,
            "quantized_head": {
                "algorithm": algorithm,
                "modules": list(head.modules),
                "bytes": sum(end - begin for begin, end in ranges),
            },
        }

    return remake(
        output,
        stage=HEAD_QUANTIZED,
        inputs={"release": release},
        settings={"scheme": scheme},
        environment=environment,
        build=build,
    )


def _excluded(checkpoint: Checkpoint) -> list[str]:
    """What the release excludes: of its head what stays bf16 alone."""
    spelling = declared_spelling(checkpoint.config) or DEFAULT_SPELLING
    exclude = declared_besides(checkpoint, spelling).exclude
    family = family_of(checkpoint.config)
    head = family.head if family else None
    if head is None or head.pattern not in exclude:
        raise ScionError(
            "the release does not exclude its MTP head, so it has none in bf16",
            where=f"{checkpoint.folder / CONFIG}: quantization_config",
            expected=head.pattern if head else "a family with an MTP head",
            found=", ".join(exclude)[:200],
            hint="name the artifact of heal_mtp",
        )
    return [head.fc if entry == head.pattern else entry for entry in exclude]


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"release": "pointer of heal_mtp"})
    schemes = [scheme for scheme in get_args(HeadScheme) if scheme != "none"]
    parser.add_argument("--scheme", required=True, choices=schemes, help="what the head gets")
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: quantize_mtp(
            release=output.store.open_pointer(args.release),
            scheme=args.scheme,
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
