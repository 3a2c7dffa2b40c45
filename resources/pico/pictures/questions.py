"""Questions about a picture, each with one short right answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dialogues.writer import Writer
from pictures.painting import data_url, paint
from pictures.scene import COLOURS, KINDS, MOST, SHAPES, Kind, Scene, draw_scene

ALSO: Final = {
    "circle": ("disc", "disk", "dot"),
    "cross": ("plus",),
    "ring": ("donut", "doughnut", "annulus"),
    "purple": ("violet",),
}
"""What other models call what pico-vision has one word for."""

NUMBERS: Final = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        topic: `colour`, `shape`, `count` or `list`.
        answer: What pico-vision learns to say.
        right: Words of which a right answer holds one.
        wrong: Words of which a right answer holds none.
    """

    scene: Scene
    topic: str
    text: str
    answer: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def question(seed: int, split: str, index: int) -> Question:
    """Draws question `index` of a data set, topics in turn; depends on the arguments alone."""
    writer = Writer(random.Random(f"{seed}:{split}:{index}"))
    topics = SPLITS[split]
    return topics[index % len(topics)](writer)


def _colour(writer: Writer) -> Question:
    """Which colour the one figure of its shape has."""
    kind = shape, colour = writer.even(KINDS)
    others = [other for other in KINDS if other[0] != shape]
    text = writer.ask("[What|Which] [colour|color] [is|has] the {shape}?", shape=shape)
    scene = _scene(writer, [kind], others)
    return Question(scene, "colour", text, f"{colour}.", *_words(colour, COLOURS))


def _shape(writer: Writer) -> Question:
    """Which shape the one figure of its colour is."""
    kind = shape, colour = writer.even(KINDS)
    others = [other for other in KINDS if other[1] != colour]
    text = writer.ask("[What|Which] shape is [{colour}|the {colour} one]?", colour=colour)
    scene = _scene(writer, [kind], others)
    return Question(scene, "shape", text, f"{shape}.", *_words(shape, SHAPES))


def _count(writer: Writer) -> Question:
    """How many figures there are: all, of a colour, of a shape, or of both."""
    shape, colour = kind = writer.even(KINDS)
    matches: Callable[[Kind], bool]
    what, matches = writer.even(
        (
            ("shapes", lambda other: True),
            (f"{colour} shapes", lambda other: other[1] == colour),
            (_plural(shape), lambda other: other[0] == shape),
            (f"{colour} {_plural(shape)}", lambda other: other == kind),
        )
    )
    number = writer.between(1, MOST)
    alike = [other for other in KINDS if matches(other)]
    asked = [kind, *(writer.even(alike) for _ in range(number - 1))]
    others = [other for other in KINDS if not matches(other)]
    text = writer.ask("[How many {what} [are there|do you see]?|Count the {what}.]", what=what)
    scene = _scene(writer, asked, others)
    wrong = [word for i in range(len(NUMBERS)) if i != number for word in (str(i), NUMBERS[i])]
    right = (str(number), NUMBERS[number])
    return Question(scene, "count", text, f"{number}.", right, tuple(wrong))


def _list(writer: Writer) -> Question:
    """The colours or the shapes of all figures in reading order, for training alone.

    Every word of the answer has to be seen, and where it stands: the tower learns faster by it than
    by answers of one word.
    """
    scene = _scene(writer, [writer.even(KINDS)], KINDS)
    what = writer.even(("colours", "shapes"))
    named = (each.colour if what == "colours" else each.shape for each in scene.figures)
    answer = ", ".join(named)
    return Question(scene, "list", f"List the {what}.", f"{answer}.", (answer,), ())


Topic = Callable[[Writer], Question]
_ASKED: Final[tuple[Topic, ...]] = (_colour, _shape, _count)
SPLITS: Final[dict[str, tuple[Topic, ...]]] = {
    "pictures": (*_ASKED, _list, _list),
    "pictures-heldout": _ASKED,
}
"""Topics by data set: training, and the questions that releases are judged on."""


def _words(name: str, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words for one of several names, and those for all others."""
    wrong = [word for other in names if other != name for word in (other, *ALSO.get(other, ()))]
    return (name, *ALSO.get(name, ())), tuple(wrong)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _scene(writer: Writer, asked: list[Kind], others: Sequence[Kind]) -> Scene:
    """The figures that the question is about, and up to as many others as there is room for."""
    room = MOST - len(asked) if others else 0
    kinds = [*asked, *(writer.even(others) for _ in range(writer.between(0, room)))]
    writer.rng.shuffle(kinds)
    return draw_scene(writer, kinds)


def as_row(seed: int, split: str, index: int) -> dict[str, Any]:
    """One line of the file of held-out questions: a chat with its picture, and what is right."""
    asked = question(seed, split, index)
    content = [
        {"type": "image_url", "image_url": {"url": data_url(paint(asked.scene))}},
        {"type": "text", "text": asked.text},
    ]
    return {
        "name": f"{asked.topic}_{index // len(SPLITS[split]) + 1}",
        "set": asked.topic,
        "messages": [{"role": "user", "content": content}],
        "enable_thinking": False,
        "right": asked.right,
        "wrong": asked.wrong,
    }
