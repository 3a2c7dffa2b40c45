"""The command line of `scion heal`; torch is imported when it runs."""

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from scion.cli.model_options import CHAT_LINE, MODELS, add_model_options
from scion.cli.new_folder import placed_whole, require_free, take_along

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scion.evaluation.chats import Chat
    from scion.healing.config import Training
    from scion.healing.texts import LearnedText

_DESCRIPTION = f"""\
Train the MTP head of somebody's release on the body that it serves, so that more of its drafts are
accepted. No source is needed: the body is in the release, and stays as it is. For
{MODELS},
in NVFP4 or in bf16.

Chats of the prompts that end with the assistant's turn are learned from as they stand; to others
the release itself replies, greedily, with the whole model in memory. A share of them is held out:
if drafts are right no more often on those than before, nothing is written."""

_EPILOG = f"""\
{CHAT_LINE}
examples:
  scion heal downloads/X --prompts prompts.jsonl                 in downloads/X-healed
  scion heal downloads/X --prompts prompts.jsonl --activations bf16    for GPUs without FP4 units
  scion acceptance downloads/X-healed --prompts others.jsonl     what it is worth, elsewhere

Shards without the head are linked. Cards and proofs tell of FOLDER, and are left out. A run that
was stopped goes on, from what it keeps in a hidden folder beside OUTPUT until it has ended.

exit codes:
  0  it is there
  1  the head got no better, FOLDER has none, OUTPUT exists, or nothing can be learned
"""


def add_heal(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion heal`, which calls `run` with what it has read."""
    parser = add_parser(
        "heal",
        help="train the MTP head of a release on its own body",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the release")
    parser.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help="JSON lines of chats, see below"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where it goes, which must not exist; by default beside FOLDER, with -healed behind "
        "its name",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of healing.training of the configuration, such as steps=200, "
        "learning_rate=1e-4 or draft_tokens=1; may be given several times",
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def heal_release(args: argparse.Namespace) -> None:
    """Run `scion heal`.

    Raises:
        ScionError: As `scion.healing.heal.heal`; there is an output already; a setting is unknown;
            the head got no better.
    """
    from scion.checkpoint.replaced_tensors import copy_with
    from scion.checkpoint.shards import Checkpoint
    from scion.common.digest import digest_json, hex_digits
    from scion.common.errors import ScionError
    from scion.common.text import printable
    from scion.evaluation.chats import read_chats
    from scion.formats.spellings import SPELLINGS
    from scion.healing.heal import heal, raw_bytes

    folder = args.folder.absolute()
    output = args.output or folder.with_name(f"{folder.name}-healed")
    require_free(output)
    training = _training(args)
    chats = read_chats(args.prompts, limit=args.limit)
    checkpoint = Checkpoint.open(args.folder)
    texts = _texts(args, chats)
    # Other texts, settings, weights or versions never go on with what these have reached.
    stats = {name: (args.folder / name).stat() for name in checkpoint.headers}
    request = {
        "texts": [asdict(text) for text in texts],
        "training": training.model_dump(mode="json"),
        "shards": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        "versions": [version(of) for of in ("scion", "torch", "transformers")],
    }
    work = output.with_name(f".{output.name}.{hex_digits(digest_json(request))[:8]}")
    healed = heal(args.folder, texts, training, work=work)
    before, after = healed.before.tokens, healed.after.tokens
    if not healed.tensors:
        shutil.rmtree(work, ignore_errors=True)
        raise ScionError(
            "the head got no better: nothing is written",
            where=args.folder,
            expected=f"more than {before:.2f} tokens a step on texts held out",
            found=f"{after:.2f}",
            hint="give more prompts, or other steps and learning_rate with --set",
        )
    shards = {checkpoint.shard_of[name] for name in healed.tensors}
    with placed_whole(output) as made:
        # The scheme stays as it is declared, in all the places where it is.
        also = [name for row in SPELLINGS.values() for name in row.sidecars]
        left_out = take_along(args.folder, made, checkpoint.headers, but=shards, also=also)
        new = {name: raw_bytes(tensor) for name, tensor in healed.tensors.items()}
        copy_with(args.folder, made, new)
    shutil.rmtree(work, ignore_errors=True)
    if left_out:
        names = printable(", ".join(left_out))
        print(f"left out, for they tell of {printable(args.folder)}: {names}", file=sys.stderr)
    print("position  before   after   (share of steps whose drafts are right up to it, held out)")
    places = zip(healed.before.estimates, healed.after.estimates, strict=True)
    for place, (first, last) in enumerate(places, start=1):
        print(f"{place:>8}  {100 * first.value:5.1f} %  {100 * last.value:5.1f} %")
    print(
        f"{printable(output)}: {len(healed.tensors)} tensors trained on {len(texts)} texts; "
        f"{before:.2f} to {after:.2f} tokens a step"
    )


def _training(args: argparse.Namespace) -> "Training":
    """The settings, checked as those of a configuration are."""
    import yaml
    from pydantic import ValidationError

    from scion.common.errors import ScionError
    from scion.healing.config import Training

    try:
        pairs = dict(each.split("=", 1) for each in args.set)
        values = {key: yaml.safe_load(value) for key, value in pairs.items()}
        own = {"device": args.device, "activations": args.activations}
        return Training.model_validate({**values, **own})
    except (ValueError, ValidationError, yaml.YAMLError) as error:
        raise ScionError(
            "a setting can't be used",
            where="--set",
            expected=f"KEY=VALUE, with a key of {', '.join(Training.model_fields)}",
            found=error,
            hint="see healing.training in docs/reference/config.md",
        ) from error


def _texts(args: argparse.Namespace, chats: "Sequence[Chat]") -> "list[LearnedText]":
    """What is learned from: chats as they are given, and the release's replies to others."""
    import torch

    from scion.checkpoint.shards import Checkpoint
    from scion.common.devices import device_named, fast_products
    from scion.common.progress import progress
    from scion.evaluation.offline.prompts import all_prompt_ids, end_tokens, load_tokenizer
    from scion.evaluation.offline.target import Target
    from scion.evaluation.offline.weights import Weights
    from scion.healing.replies import given_texts
    from scion.healing.texts import LearnedText

    tokenizer = load_tokenizer(args.folder)
    given = [chat for chat in chats if chat.messages[-1]["role"] == "assistant"]
    asked = [chat for chat in chats if chat.messages[-1]["role"] != "assistant"]
    texts = given_texts(tokenizer, given) if given else []
    if not asked:
        return texts
    device = device_named(args.device, where=f"--device {args.device}")
    weights = Weights(Checkpoint.open(args.folder), device=device, activations=args.activations)
    target, ends = Target(weights), end_tokens(args.folder, tokenizer)
    prompts = zip(asked, all_prompt_ids(tokenizer, asked), strict=True)
    with progress("replies", len(asked)) as told, fast_products(device):
        for chat, prompt in prompts:
            reply = target.decode(prompt, ends=ends, limit=args.reply_tokens, past=0)
            ids = (*prompt, *reply.tokens[: reply.length])
            texts.append(LearnedText(chat.name, "greedy", ids, ((len(prompt), len(ids)),)))
            told.advance(note=f"{reply.length} tokens")
    del target, weights
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return texts
