"""The command line of `scion acceptance`; torch is imported when it runs."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scion.cli.model_options import CHAT_LINE, MODELS, add_model_options, count

if TYPE_CHECKING:
    from scion.evaluation.intervals import Estimate
    from scion.evaluation.offline.acceptance import Acceptance

_DESCRIPTION = f"""\
Measure how many drafts of a release's MTP head the release accepts, without a server: what vLLM
counts with --speculative-config '{{"method": "mtp", "num_speculative_tokens": N}}' and greedy
decoding. For {MODELS},
in bf16, or in NVFP4 by ModelOpt, alone or beside FP8.
On a GPU NVFP4 weights stay packed: a 27B release takes about 21 GB."""

_EPILOG = f"""\
{CHAT_LINE}
examples:
  scion acceptance models/agent-nvfp4 --prompts prompts.jsonl
  scion acceptance models/agent-nvfp4 --prompts prompts.jsonl --draft-tokens 1 --limit 20
  scion acceptance models/agent-nvfp4 --prompts prompts.jsonl --activations bf16   as Hopper GPUs do

The intervals hold 95 % and cover the variation between prompts: take those that the release is
meant for, and some dozens of them. Exit code 1 if nothing could be measured.
"""


def add_acceptance(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion acceptance`, which calls `run` with what it has read."""
    parser = add_parser(
        "acceptance",
        help="measure the acceptance of a release's MTP head without a server",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the release")
    parser.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help="JSON lines of chats, see below"
    )
    parser.add_argument(
        "--draft-tokens", type=count, default=3, metavar="N", help="drafts a round (default: 3)"
    )
    add_model_options(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the counts as JSON")
    parser.set_defaults(run=run)


def acceptance(args: argparse.Namespace) -> None:
    """Run `scion acceptance`.

    Raises:
        ScionError: As `measure_offline` and `read_chats` do.
    """
    from scion.common.files import write_json
    from scion.evaluation.chats import read_chats
    from scion.evaluation.offline.acceptance import measure_offline

    result = measure_offline(
        args.folder,
        read_chats(args.prompts, limit=args.limit),
        draft_tokens=args.draft_tokens,
        reply_tokens=args.reply_tokens,
        device=args.device,
        activations=args.activations,
    )
    if args.output is not None:
        write_json(args.output, {"release": str(args.folder), **result.record()})
        print(f"written: {args.output}", file=sys.stderr)
    print("\n".join(table(result)))


def table(result: "Acceptance") -> list[str]:
    """The lines that tell a result."""
    lines = ["position  drafts  accepted  rate     95 % interval"]
    for place, (accepted, rate) in enumerate(
        zip(result.accepted, result.per_position(), strict=True), start=1
    ):
        lines.append(
            f"{place:>8}  {result.drafts:>6}  {accepted:>8}  {100 * rate.value:5.1f} %  "
            f"{_interval(rate, 100, '.1f')}"
        )
    length = result.mean_length()
    replies = sum(len(prompt.reply) for prompt in result.prompts)
    return [
        *lines,
        f"mean length {length.value:.2f} of {result.draft_tokens + 1} tokens a step, "
        f"{_interval(length, 1, '.2f')}",
        f"{len(result.prompts)} prompts, {replies} tokens of replies, activations in "
        f"{result.activations}, on {result.device}",
    ]


def _interval(estimate: "Estimate", factor: float, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return "unknown: one prompt"
    return f"{factor * estimate.low:{form}} to {factor * estimate.high:{form}}"
