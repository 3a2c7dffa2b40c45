"""The command line of `scion respell`: a release under the names that another spelling has."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scion.cli.new_folder import placed_whole, require_free, take_along

if TYPE_CHECKING:
    from scion.checkpoint.shards import Checkpoint
    from scion.formats.spellings import Spelling

_DESCRIPTION = """\
Write an NVFP4 release in another spelling: the same packed weights and block scales under other
names, global scales as reciprocals or taken back from them, and the scheme declared in the other
words. Nothing is calibrated or packed anew, no GPU is needed, and FOLDER stays as it is.

spellings:
  modelopt             weight, weight_scale, weight_scale_2, input_scale; config.json and
                       hf_quant_config.json. Read by vLLM, SGLang and TensorRT-LLM.
  compressed-tensors   weight_packed, weight_scale, weight_global_scale, input_global_scale;
                       config.json. Read by vLLM, SGLang and transformers. SGLang up to 0.5.23 loads
                       an MTP head beside it without some of its tensors (lint rule M305).

A reciprocal is rounded to float32, so some scales can't be told from their neighbour afterwards.
Those of a model that was calibrated in bf16, as ModelOpt's are, come back to their last bit; how
many of others would not is said at the end."""

_EPILOG = """\
examples:
  scion respell downloads/X                  the other spelling, in downloads/X-SPELLING
  scion respell downloads/X --to modelopt --output Y

What an engine loads is written or taken along: shards, index, configs, tokenizer, chat template.
Cards and proofs tell of FOLDER, and are left out; the workflow makes a release of its own in either
spelling (the key `spelling` of a config file). Shards in which no name changes are linked. Others
are cloned where the file system shares blocks (XFS, btrfs), and else copied.

The result is linted for the newest vLLM and SGLang before it gets its name; with errors there is
none.

exit codes:
  0  it is there
  1  FOLDER has no other spelling, OUTPUT exists, or an engine would not load what it became
"""


def add_respell(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion respell`, which calls `run` with what it has read."""
    parser = add_parser(
        "respell",
        help="write an NVFP4 release under the names of another spelling; no byte is packed anew",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the release")
    parser.add_argument(
        "--to", metavar="SPELLING", help="modelopt or compressed-tensors; by default the other one"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="where it goes, which must not exist; by default beside FOLDER, with the spelling "
        "behind its name",
    )
    parser.set_defaults(run=run)


def respell(args: argparse.Namespace) -> None:
    """Run `scion respell`.

    Raises:
        ScionError: The release has no such spelling, there is an output already, or lint finds
            errors in what it became.
    """
    from scion.checkpoint.shards import Checkpoint
    from scion.common.text import printable, size
    from scion.formats.modelopt import FP8
    from scion.lint.config import Lint
    from scion.lint.gate import in_one_line, lint_folder, require_sound
    from scion.lint.rule import Severity
    from scion.quantization.respelling import respelling

    checkpoint = Checkpoint.open(args.folder)
    target = _target(args.to, checkpoint)
    made = respelling(checkpoint, target)
    output = args.output or _beside(args.folder, target.name)
    require_free(output)
    with placed_whole(output) as folder:
        left_out = take_along(args.folder, folder, checkpoint.headers, but=set(made.written))
        made.write(folder, index=len(checkpoint.headers) > 1)
        found = lint_folder(folder, Lint())
        require_sound(found, folder, hint=f"nothing was made; see scion lint {args.folder}")
    written = sum((output / shard).stat().st_size for shard in made.shards)
    eight_bits = sum(algorithm == FP8 for algorithm in made.algorithms.values())
    if left_out:
        names = printable(", ".join(left_out))
        print(f"left out, for they tell of {printable(args.folder)}: {names}")
    for result in found:
        if result.rule.severity is Severity.WARNING:
            print(f"warning {in_one_line(result)}")
    if made.inexact:
        print(f"{len(made.inexact)} scales would come back with another last bit")
    fp8 = f", {eight_bits} of them in FP8" if eight_bits else ""
    print(
        f"{printable(output)}: {target.name}, {len(made.algorithms)} quantized modules{fp8}, "
        f"{len(made.shards)} of {len(checkpoint.headers)} shards written, {size(written)}"
    )


def _target(name: str | None, checkpoint: "Checkpoint") -> "Spelling":
    """The spelling that is asked for; the other one of two where none is."""
    from scion.common.errors import ScionError
    from scion.formats.spellings import SPELLINGS, declared_spelling

    others = [row for row in SPELLINGS.values() if row != declared_spelling(checkpoint.config)]
    if name is None:
        return others[0]
    if name not in SPELLINGS:
        raise ScionError(
            "no spelling has this name",
            where="--to",
            expected=", ".join(SPELLINGS),
            found=name,
            hint="see scion respell --help",
        )
    return SPELLINGS[name]


def _beside(folder: Path, spelling: str) -> Path:
    whole = folder.absolute()
    return whole.with_name(f"{whole.name}-{spelling}")
