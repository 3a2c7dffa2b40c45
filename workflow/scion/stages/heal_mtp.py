"""Train the MTP head of the release on its own body, as the body is stored, and put it in place.

The body stays, file by file, what graft_mtp has made: its shards are hard-linked. The head's
tensors are trained in float32 over the drafts of a step, on the body's own distribution along
`sample_replies`' texts, and written over those in a copy of the head's shard. Where that makes no
more drafts right on texts that were held out, or fewer beyond the interval on texts of other
domains, the head stays as it was, and the manifest says so.
"""

import sys
from typing import get_args

from scion.architectures.families import in_head
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.origins import trained_origins
from scion.checkpoint.replaced_tensors import copy_with
from scion.checkpoint.shards import CONFIG
from scion.common.errors import ScionError
from scion.common.section import Section
from scion.formats.stored_modules import HeadScheme
from scion.healing.config import Training
from scion.healing.texts import ORIGINS, TEXTS, read_texts
from scion.stages.common_options import add_settings, read_settings, run_stage, stage_parser


class HealingSettings(Section):
    """The section of the configuration that this stage reads."""

    training: Training


def heal_mtp(
    *,
    release: Artifact,
    replies: Artifact,
    training: Training,
    scheme: HeadScheme = "none",
    output: Output,
    environment: str,
) -> Artifact:
    """Heal the head of a release.

    Args:
        release: The release as graft_mtp has put it together, with an MTP head.
        replies: What the head learns from.
        training: How.
        scheme: What quantize_mtp will store the head's matrices in; they are trained through that.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The release has no head; as `scion.healing.heal.heal`.
    """

    def build(draft: Draft) -> None:
        head = [name for name in release.tensors() if in_head(name)]
        if not head:
            raise _no_head(release)
        # Here, because torch takes seconds to import, and the store may have the artifact.
        from scion.healing.heal import heal, raw_bytes, software

        texts = read_texts(replies.folder / TEXTS)
        learned = [text for text in texts if text.domain == "in"]
        healed = heal(release.folder, texts, training, work=draft.work, scheme=scheme)
        new = {name: raw_bytes(tensor) for name, tensor in healed.tensors.items()}
        draft.link_all(release, but={release.tensors()[name]["file"] for name in new})
        copy_with(release.folder, draft.folder, new)
        draft.hash_files()
        rows = draft.tensor_table()
        before = release.tensors()
        origins = {name: before[name]["origin"] for name in rows}
        draft.origins |= trained_origins(origins, rows, before)
        draft.facts |= {
            **release.facts,
            "healing": {
                "healed": bool(healed.tensors),
                "texts": {
                    **{of: sum(text.origin == of for text in learned) for of in ORIGINS},
                    "learned": healed.learned,
                    "held_out": healed.held_out,
                },
                "before": healed.before.record(),
                "after": healed.after.record(),
                "off_domain": healed.off_domain(),
                "curve": healed.curve,
                "best_step": healed.best_step,
                "input_maxima": healed.input_maxima,
                **software(training),
            },
        }

    return remake(
        output,
        stage="heal_mtp",
        inputs={"release": release, "replies": replies},
        settings={"training": training.model_dump(mode="json"), "scheme": scheme},
        environment=environment,
        build=build,
    )


def _no_head(release: Artifact) -> ScionError:
    return ScionError(
        "the release has no MTP head to heal",
        where=release.folder / CONFIG,
        expected="the tensors of a head",
        found="none",
        hint="set mtp.origin to donor or source, or healing.enabled to false",
    )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={"release": "pointer of graft_mtp", "replies": "pointer of sample_replies"},
    )
    add_settings(parser, HealingSettings)
    schemes = get_args(HeadScheme)
    parser.add_argument("--scheme", required=True, choices=schemes, help="what the head will get")
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: heal_mtp(
            release=output.store.open_pointer(args.release),
            replies=output.store.open_pointer(args.replies),
            training=read_settings(args.settings, HealingSettings).training,
            scheme=args.scheme,
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
