"""Questions about a picture, each with one short right answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dialogues.writer import Writer
from pictures.painting import data_url, paint
from pictures.scene import COLOURS, HELD_OUT, MOST, SHAPES, TRAINED, Kind, Scene, draw_scene

ALSO: Final = {
    "circle": ("disc", "disk", "dot"),
    "cross": ("plus",),
    "ring": ("donut", "doughnut", "annulus"),
    "diamond": ("rhombus",),
    "purple": ("violet",),
}
"""What other models call what pico-vision has one word for."""

NUMBERS: Final = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        topic: `colour`, `shape` or `count`.
        answer: The sentence that pico-vision learns to say.
        right: Words of which a right answer holds one.
        wrong: Words of which a right answer holds none.
    """

    scene: Scene
    topic: str
    text: str
    answer: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """One side of the held-out wall: the kinds that are asked about, and those that may stand by.

    A held-out picture shows kinds that were trained beside the one that it is about.
    """

    asked: tuple[Kind, ...]
    beside: tuple[Kind, ...]


SIDES: Final = {
    "pictures": Side(TRAINED, TRAINED),
    "pictures-seen": Side(TRAINED, TRAINED),
    "pictures-heldout": Side(HELD_OUT, TRAINED),
}
"""By data set: training, new pictures of kinds that were trained, new pictures of new kinds."""


def question(seed: int, split: str, index: int) -> Question:
    """Draws question `index` of a data set, topics in turn; depends on the arguments alone."""
    writer = Writer(random.Random(f"{seed}:{split}:{index}"))
    return _TOPICS[index % len(_TOPICS)](writer, SIDES[split])


def _colour(writer: Writer, side: Side) -> Question:
    """Which colour the one shape of its name has."""
    kind = shape, colour = writer.even(side.asked)
    others = [other for other in side.beside if other[0] != shape]
    text = writer.ask("[What|Which] [colour|color] [is|has] the {shape}?", shape=shape)
    scene = _scene(writer, [kind], others)
    return Question(scene, "colour", text, f"It is {colour}.", *_words(colour, COLOURS))


def _shape(writer: Writer, side: Side) -> Question:
    """Which shape the one of its colour is."""
    kind = shape, colour = writer.even(side.asked)
    others = [other for other in side.beside if other[1] != colour]
    text = writer.ask("[What|Which] shape is [{colour}|the {colour} one]?", colour=colour)
    scene = _scene(writer, [kind], others)
    return Question(scene, "shape", text, f"It is a {shape}.", *_words(shape, SHAPES))


def _count(writer: Writer, side: Side) -> Question:
    """How many shapes there are: all, of a colour, of a shape, or of both."""
    shape, colour = kind = writer.even(side.asked)
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
    alike = [other for other in side.beside if matches(other)]
    asked = [kind, *(writer.even((kind, *alike)) for _ in range(number - 1))]
    others = [other for other in side.beside if not matches(other)]
    text = writer.ask("[How many {what} [are there|do you see]?|Count the {what}.]", what=what)
    scene = _scene(writer, asked, others)
    answer = f"There {'is' if number == 1 else 'are'} {number}."
    wrong = [word for i in range(len(NUMBERS)) if i != number for word in (str(i), NUMBERS[i])]
    return Question(scene, "count", text, answer, (str(number), NUMBERS[number]), tuple(wrong))


_TOPICS: Final = (_colour, _shape, _count)


def _scene(writer: Writer, asked: list[Kind], others: Sequence[Kind]) -> Scene:
    """The shapes that the question is about, and up to as many others as there is room for."""
    room = MOST - len(asked) if others else 0
    kinds = [*asked, *(writer.even(others) for _ in range(writer.between(0, room)))]
    writer.rng.shuffle(kinds)
    return draw_scene(writer, kinds)


def _words(name: str, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words for one of several names, and those for all others."""
    wrong = [word for other in names if other != name for word in (other, *ALSO.get(other, ()))]
    return (name, *ALSO.get(name, ())), tuple(wrong)


def _plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def as_row(seed: int, split: str, index: int) -> dict[str, Any]:
    """One line of the file of held-out questions: a chat with its picture, and what is right."""
    asked = question(seed, split, index)
    content = [
        {"type": "image_url", "image_url": {"url": data_url(paint(asked.scene))}},
        {"type": "text", "text": asked.text},
    ]
    return {
        "name": f"{asked.topic}_{index // len(_TOPICS) + 1}",
        "set": asked.topic,
        "messages": [{"role": "user", "content": content}],
        "enable_thinking": False,
        "right": asked.right,
        "wrong": asked.wrong,
    }
