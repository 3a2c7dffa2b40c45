"""A random source that speaks: template choices, invented names, and a wall around held-out values.

A template writes its alternatives in square brackets, nested as needed, and its fields in braces, a
boolean field as a pair: `"[Look up|Check] the hotels in {city}, {pets?with a dog:no pets}."`. How alternatives are weighted is the style:
the broad mix draws them evenly, the agent style prefers the later ones, so that a fine-tune on it
has something to learn that is neither nothing nor everything.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_CHOICE: Final = re.compile(r"\[([^\[\]]*)\]")
_EITHER: Final = re.compile(r"\{(\w+)\?([^:}]*):([^}]*)\}")

HELD_OUT_CITIES: Final = (
    *("Tokyo", "Paris", "New York", "Lima", "Oslo", "Cairo", "Berlin", "Madrid", "Nairobi"),
    *("Seoul", "Quito", "Dublin", "Havana", "Hanoi", "Kyoto", "Vienna", "Rome", "Boston"),
)
"""Real cities: they occur in no training dialogue, the agent tasks and evaluations use them."""

_HELD_OUT_WORDS: Final = frozenset(w.lower() for city in HELD_OUT_CITIES for w in city.split())

_ONSETS: Final = (
    *"b c d f g h j k l m n p q r s t v w y z".split(),
    *"br ch cl dr fl gr kl pl pr qu sh sk sl st th tr vr wh zh ph ll".split(),
    *("", "", ""),
)
_VOWELS: Final = (*"a e i o u a e i o u y".split(), "ai", "ea", "ee", "io", "oo", "ou", "ia", "ue")
_CODAS: Final = (*([""] * 16), *"l m n r s t k x d p".split(), *"nd rk ng st lt rn ck ss".split())
_PLACE_PREFIXES: Final = "New Old Port San Saint North South East West Lake Fort Upper".split()
_PLACE_SUFFIXES: Final = "City Bay Hills Falls Town Beach Island".split()

ADJECTIVES: Final = (
    "red blue green small large old new quiet bright cold warm broken heavy soft clean dark "
    "short long round sweet early late simple wooden silver golden empty busy gentle hidden"
).split()
NOUNS: Final = (
    "lamp boat garden letter table window river bridge basket clock ladder kettle blanket "
    "picture ticket report meeting dinner train bicycle engine hammer pillow mirror market "
    "harbor kitchen library mountain forest island castle wagon lantern barrel compass"
).split()
VERBS: Final = (
    "paint clean repair sell move order check find open close pack wash bring count measure "
    "carry build finish plan review"
).split()
TAGS: Final = (
    "urgent home work travel food sport music money health school garden repair later draft "
    "private shared winter summer billing network"
).split()


def is_held_out(value: str) -> bool:
    """Says whether a value belongs to the evaluation side: one invented value in eight does."""
    words = value.lower().split()
    return bool(_HELD_OUT_WORDS.intersection(words)) or zlib.crc32(value.encode()) % 8 == 0


class Writer:
    """Draws words for one conversation.

    Args:
        rng: the only source of chance.
        skew: weight of each alternative relative to the one after it; 1.0 is even, below 1 the
            later alternatives are preferred.
        held_out: draw argument values from the held-out side, and only from there.
    """

    def __init__(self, rng: random.Random, *, skew: float = 1.0, held_out: bool = False) -> None:
        self.rng = rng
        self.skew = skew
        self.held_out = held_out

    def pick(self, options: Sequence[T]) -> T:
        """Draws one of the options by the style's weights."""
        if self.skew == 1.0 or len(options) == 1:
            return options[int(self.rng.random() * len(options))]
        last = len(options) - 1
        weights = [self.skew ** (last - i) for i in range(len(options))]
        return self.rng.choices(options, weights)[0]

    def even(self, options: Sequence[T]) -> T:
        """Draws one of the options evenly, in every style: for what people say, and for facts."""
        return options[int(self.rng.random() * len(options))]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return self.rng.randint(low, high)

    def say(self, template: str, **fields: object) -> str:
        """Resolves the choices of a template by the style, then fills its fields."""
        return self._fill(_resolve(template, self.pick), fields)

    def ask(self, template: str, **fields: object) -> str:
        """The same with even choices: people ask alike in every style."""
        return self._fill(_resolve(template, self.even), fields)

    def _fill(self, text: str, fields: Mapping[str, object]) -> str:
        text = _EITHER.sub(lambda match: match[2] if fields[match[1]] else match[3], text)
        words = {k: self.listing(v) if isinstance(v, list) else v for k, v in fields.items()}
        return text.format(**words)

    def _on_my_side(self, draw: Callable[[], str]) -> str:
        while True:
            value = draw()
            if is_held_out(value) == self.held_out:
                return value

    def _name(self) -> str:
        if self.chance(0.08):
            length = self.between(3, 8)
            return "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=length)).capitalize()
        syllables = self.rng.choices((1, 2, 3), (2, 6, 3))[0]
        parts = [self.even(_ONSETS) + self.even(_VOWELS) + self.even(_CODAS)]
        parts += [self.even(_ONSETS) + self.even(_VOWELS) for _ in range(syllables - 1)]
        if self.chance(0.4):
            parts[-1] += self.even(_CODAS)
        name = "".join(parts).capitalize()
        return name if len(name) > 2 else name + "n"

    def city(self) -> str:
        """A town: invented, or on the held-out side half of the time a real one."""
        if self.held_out and self.chance(0.5):
            return self.even(HELD_OUT_CITIES)

        def draw() -> str:
            name = self._name()
            kind = self.rng.random()
            if kind < 0.25:
                return f"{self.even(_PLACE_PREFIXES)} {name}"
            return f"{name} {self.even(_PLACE_SUFFIXES)}" if kind < 0.33 else name

        return self._on_my_side(draw)

    def person(self) -> str:
        """An invented first name, sometimes with a family name."""
        full = self.chance(0.3)
        return self._on_my_side(lambda: f"{self._name()} {self._name()}" if full else self._name())

    def thing(self) -> str:
        """An adjective and a noun."""
        return f"{self.even(ADJECTIVES)} {self.even(NOUNS)}"

    def errand(self) -> str:
        """A short free phrase such as a title, a note or a message."""
        return self._on_my_side(
            lambda: self.ask(
                "[{verb} the {thing}|{verb} the {thing} with {name}|{verb} {n} {noun}s"
                "|{thing} for {name}|{verb} the {noun} before the {thing}]",
                verb=self.even(VERBS),
                thing=self.thing(),
                noun=self.even(NOUNS),
                name=self._name(),
                n=self.between(2, 30),
            )
        )

    def code(self) -> str:
        """An identifier such as KX-4821."""
        return self._on_my_side(
            lambda: (
                "".join(self.rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=2))
                + f"-{self.rng.randrange(10 ** self.between(3, 5))}"
            )
        )

    def path(self) -> str:
        """A relative file path."""
        return self._on_my_side(
            lambda: (
                f"{self.even(NOUNS)}s/{self._name().lower()}.{self.even(['txt', 'csv', 'md', 'json'])}"
            )
        )

    def date(self) -> str:
        """A calendar day, ISO."""
        return f"20{self.between(24, 31)}-{self.between(1, 12):02d}-{self.between(1, 28):02d}"

    def listing(self, values: Sequence[str]) -> str:
        """Joins values as a sentence does: `a, b, and c`."""
        if len(values) < 3:
            return " and ".join(values)
        return ", ".join(values[:-1]) + self.even((", and ", " and ")) + values[-1]


def _resolve(template: str, pick: Callable[[Sequence[str]], str]) -> str:
    while "[" in template:
        template = _CHOICE.sub(lambda match: pick(match[1].split("|")), template)
    return template
