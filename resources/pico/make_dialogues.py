"""Writes the data files beside the pico pair, or shows what its training data look like.

- `calibration.jsonl`: agent dialogues from the training side, for the quantizer's scales.
- `healing.jsonl`: prompts from the training side, for the replies that the MTP head learns from, in
  equal parts: agent dialogues that wait for the assistant's next turn, small questions, stories,
  instructions.
- `off_domain.jsonl`: prompts of the broad mix, of the held-out side, that show whether a head that
  was trained gets worse elsewhere.
- `prompts_off_domain.jsonl`: the prompts of `prompts.jsonl`, and a set of that kind beside them.
- `calibration_texts.jsonl`: plain stories and instructions from the training side, for the same.
- `heldout.jsonl`: agent dialogues whose argument values occur nowhere in training, for perplexity.
- `heldout_texts.jsonl`: plain stories and instructions of the broad mix, no chat around them, from
  the same held-out side, for perplexity.

Every line of a set of dialogues is `{"messages": [...], "tools": [...]}`, a prompt has `name` and
`enable_thinking` beside them, a text is `{"name": ...,
"text": ...}`. The training sets themselves are not files: train.py draws them from the same
generator, and `--show base` prints some of them. Needs jinja2 for `--show`, no torch.

    python resources/pico/make_dialogues.py
    python resources/pico/make_dialogues.py --show agent --count 3
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dialogues.chat import explain, story
from dialogues.corpus import MIXES, Conversation, Renderer, as_row, conversation, conversations
from dialogues.writer import Writer

HERE = Path(__file__).resolve().parent
CALIBRATION_ROWS = 96
HELD_OUT_ROWS = 96
HELD_OUT_TEXTS = 32
HEALING_PROMPTS = 320
OFF_DOMAIN_PROMPTS = 24
OFF_DOMAIN_MEASURED = 8
CALIBRATION_TEXTS = 20


def plain_texts(seed: int, count: int, *, held_out: bool) -> list[dict[str, Any]]:
    """Stories, and instructions as every fourth: answers by themselves, of one side of the wall."""
    rows: list[dict[str, Any]] = []
    purpose = "texts" if held_out else "calibration-texts"
    for i in range(count):
        writer = Writer(random.Random(f"{seed}:{purpose}:{i}"), held_out=held_out)
        draw = explain if i % 4 == 3 else story
        talk = Conversation(draw.__name__, thinking=False)
        draw(writer, talk)
        rows.append({"name": f"{talk.kind}_{i + 1}", "text": talk.messages[-1]["content"]})
    return rows


def healing_prompts(seed: int, count: int) -> list[dict[str, Any]]:
    """Of the training side, agent dialogues, small questions, stories and instructions in turn."""
    drawn = (conversation(seed, "healing", i) for i in itertools.count())
    chats = (conversation(seed, "healing-chat", i) for i in itertools.count())
    small, stories, instructions = itertools.tee(chats, 3)
    kinds = (
        (talk for talk in drawn if talk.tools),
        (talk for talk in small if talk.kind not in ("story", "explain")),
        (talk for talk in stories if talk.kind == "story"),
        (talk for talk in instructions if talk.kind == "explain"),
    )
    turns = itertools.cycle(kinds)
    return [_open_turn(seed, "healing", i, next(next(turns))) for i in range(count)]


def off_domain_prompts(
    seed: int, count: int, learned: Sequence[dict[str, Any]], *, first: int = 1000
) -> list[dict[str, Any]]:
    """Of the broad mix's held-out side, such as no user begins a learned dialogue with."""
    begun = {_asked(row)[:turns] for row in learned for turns in range(1, len(_asked(row)) + 1)}
    rows: list[dict[str, Any]] = []
    # The first four hundred judge the pair while it trains.
    for i in itertools.count(first):
        row = _open_turn(seed, "off_domain", len(rows), conversation(seed, "base-heldout", i))
        if _asked(row) not in begun:
            rows.append(row)
        if len(rows) == count:
            return rows
    raise AssertionError


def _asked(row: dict[str, Any]) -> tuple[str, ...]:
    """What the user says in a dialogue."""
    return tuple(said["content"] for said in row["messages"] if said["role"] == "user")


def _open_turn(seed: int, kind: str, number: int, talk: Conversation) -> dict[str, Any]:
    """A dialogue up to one of the assistant's turns, any of them alike."""
    row = as_row(talk)
    turns = [n for n, said in enumerate(row["messages"]) if said["role"] == "assistant"]
    turn = random.Random(f"{seed}:{kind}-turn:{number}").choice(turns)
    return {
        "name": f"{kind}_{number + 1}",
        "messages": row["messages"][:turn],
        "tools": row["tools"],
        "enable_thinking": talk.thinking,
    }


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n")


def write_all(out: Path, seed: int) -> None:
    """Writes the data files."""
    for name, split, count in (
        ("calibration", "calibration", CALIBRATION_ROWS),
        ("heldout", "evaluation", HELD_OUT_ROWS),
    ):
        rows = (as_row(talk) for talk in conversations(seed, split, 0, count))
        write_rows(out / f"{name}.jsonl", rows)
    healing = healing_prompts(seed, HEALING_PROMPTS)
    write_rows(out / "healing.jsonl", healing)
    calibration = [as_row(t) for t in conversations(seed, "calibration", 0, CALIBRATION_ROWS)]
    off_domain = off_domain_prompts(seed, OFF_DOMAIN_PROMPTS, [*healing, *calibration])
    write_rows(out / "off_domain.jsonl", off_domain)
    measured = off_domain_prompts(
        seed, OFF_DOMAIN_MEASURED, [*healing, *calibration, *off_domain], first=3000
    )
    asked = [json.loads(line) for line in (HERE / "prompts.jsonl").read_text().splitlines()]
    for row in measured:
        # Each is asked with thinking and without.
        del row["enable_thinking"]
        asked.append({"name": row["name"], "set": "off_domain", **row})
    write_rows(out / "prompts_off_domain.jsonl", asked)
    for name, count, held_out in (
        ("calibration_texts", CALIBRATION_TEXTS, False),
        ("heldout_texts", HELD_OUT_TEXTS, True),
    ):
        write_rows(out / f"{name}.jsonl", plain_texts(seed, count, held_out=held_out))


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line; writes the files or shows conversations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the data files")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--show", choices=sorted(MIXES), help="print conversations, write nothing")
    parser.add_argument("--count", type=int, default=5, help="how many to show")
    args = parser.parse_args(argv)
    if args.show is None:
        write_all(args.out, args.seed)
        return
    render = Renderer(HERE / "assets" / "chat_template.jinja")
    for talk in conversations(args.seed, args.show, 0, args.count):
        print(f"--- {talk.kind}\n{render(talk)}")


if __name__ == "__main__":
    main()
