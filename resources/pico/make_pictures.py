"""Writes `resources/prompts/pictures.jsonl`: questions about held-out pictures, and their answers.

A line is a chat as /v1/chat/completions takes it, the picture in it as a PNG in a data URL, with
`right`, words of which a right answer holds one, and `wrong`, words of which it holds none. The
training pictures are not a file, train.py draws them from the same generator.

    python resources/pico/make_pictures.py
    python resources/pico/make_pictures.py --show folder --count 30
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from make_dialogues import write_rows
from pictures.painting import paint, png
from pictures.questions import SPLITS, as_row, question

PROMPTS = Path(__file__).resolve().parents[1] / "prompts"
QUESTIONS = 300


def show(folder: Path, *, seed: int, split: str, count: int) -> None:
    """Writes pictures as PNG files and prints what is asked about each."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        asked = question(seed, split, index)
        (folder / f"{index:03d}.png").write_bytes(png(paint(asked.scene)))
        print(f"{index:03d}.png  {asked.text}  {asked.answer}")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line; writes the file or shows pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PROMPTS, help="folder of the file")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--count", type=int, default=QUESTIONS, help="how many questions")
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="write pictures there instead")
    parser.add_argument("--split", choices=sorted(SPLITS), default="pictures", help="to show")
    args = parser.parse_args(argv)
    if args.show is not None:
        show(args.show, seed=args.seed, split=args.split, count=args.count)
        return
    rows = (as_row(args.seed, "pictures-heldout", index) for index in range(args.count))
    write_rows(args.out / "pictures.jsonl", rows)


if __name__ == "__main__":
    main()
