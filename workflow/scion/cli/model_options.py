"""Options of the commands that run a release's model themselves."""

import argparse

from scion.architectures.families import offline_families

MODELS = " or\n".join(f"{row.title} ({row.architecture})" for row in offline_families())
"""What they can run, for a command's help."""

CHAT_LINE = """\
a line of the prompts, such as:
  {"messages": [{"role": "user", "content": "What is larger, 27 or 68?"}]}
and it may hold `name`, `tools` (as the chat API takes them) and `enable_thinking` (true or false).
"""
"""For the end of a command's help."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--limit`, `--reply-tokens`, `--device` and `--activations`."""
    parser.add_argument(
        "--reply-tokens", type=count, default=200, metavar="N", help="longest reply (default: 200)"
    )
    parser.add_argument(
        "--limit", type=count, metavar="N", help="the first N prompts only (default: all)"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="default: auto, a GPU if there is one",
    )
    parser.add_argument(
        "--activations",
        choices=("nvfp4", "bf16"),
        default="nvfp4",
        help="what NVFP4 layers multiply with: rounded to NVFP4, as the checkpoint declares and "
        "GPUs with FP4 units do, or bf16, as others do (default: nvfp4)",
    )


def count(text: str) -> int:
    """The value of an option that counts something.

    Raises:
        argparse.ArgumentTypeError: It is no number from 1 on.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)
