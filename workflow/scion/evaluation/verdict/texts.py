"""Replies that are broken as texts, whatever they say: loops, another script, nothing at all.

These are what a damaged model writes, and a score does not tell apart from a wrong answer. The
source is asked the same, and what it does as well is no loss: a prompt that asks for another
language, say, is counted on both sides.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator

# A loop: a unit of up to so many words, at least so often, at least so many words in all.
_LONGEST_PERIOD = 80
_LEAST_REPEATS = 4
_LEAST_WORDS = 16

# Scripts of one writing: Japanese is written in three, and Chinese names stand in Korean texts.
_WRITINGS = {
    "CJK": "East Asian",
    "HIRAGANA": "East Asian",
    "KATAKANA": "East Asian",
    "BOPOMOFO": "East Asian",
    "HANGUL": "East Asian",
}
# Letters in a row that are a word: one Greek letter is a symbol, two Chinese ones are a word.
_LEAST_LETTERS = {"East Asian": 2}
_FEW_LETTERS = 3
_WORDS = re.compile(r"\w+|[^\w\s]")


def ends_in_loop(text: str) -> bool:
    """Whether a text ends by saying the same again and again.

    Of a reply that its limit cut off; one that ends by itself may repeat what it likes, such as
    the cells of a table.

    Args:
        text: A reply that was cut off. The last unit may be incomplete.

    Returns:
        Whether its end is one unit of up to 80 words (in scripts without spaces: letters), four
        times or more in a row, over at least 16 words.
    """
    words = list(_units(text))
    words.reverse()
    for period in range(1, min(_LONGEST_PERIOD, len(words) // _LEAST_REPEATS) + 1):
        least = max(_LEAST_REPEATS * period, _LEAST_WORDS)
        # The very last word may be cut within itself.
        for skipped in (0, 1):
            tail = words[skipped : skipped + least]
            if len(tail) == least and all(
                tail[place] == tail[place + period] for place in range(least - period)
            ):
                return True
    return False


def _units(text: str) -> Iterator[str]:
    """Words and marks; letters one by one where a script has no spaces."""
    for word in _WORDS.findall(text):
        if any(_writing(letter) == "East Asian" for letter in word):
            yield from word
        else:
            yield word


def foreign_writing(reply: str, prompt: str) -> str | None:
    """The first writing in a reply of which its prompt has no letter, if there is a word of it.

    Args:
        reply: Answer and thinking.
        prompt: All that the model was given: messages and tools.

    Returns:
        Such as `Cyrillic` or `East Asian`; None for a reply in the prompt's own. A prompt without
        letters has none that a reply could leave.
    """
    known = {_writing(letter) for letter in prompt} - {None}
    if not known:
        return None
    runs = list(_runs(reply))
    letters = sum(count for _, count in runs)
    for writing, count in runs:
        if writing in known or count < _LEAST_LETTERS.get(writing, _FEW_LETTERS):
            continue
        # Names and terms in Latin letters stand in texts of every script.
        if writing != "Latin" or 2 * sum(n for w, n in runs if w == writing) > letters:
            return writing
    return None


def _runs(text: str) -> Iterator[tuple[str, int]]:
    """Letters of one writing in a row, and how many."""
    current, count = None, 0
    for letter in text:
        found = _writing(letter)
        # An accent that stands by itself belongs to the letter before it.
        if found is None and unicodedata.category(letter).startswith("M"):
            continue
        if found == current:
            count += 1
            continue
        if current is not None:
            yield current, count
        current, count = found, 1
    if current is not None:
        yield current, count


@functools.cache
def _writing(letter: str) -> str | None:
    """The writing that a letter is of; None for what is no letter."""
    if not letter.isalpha():
        return None
    # Python has no table of scripts, but a letter's name begins with its own: CYRILLIC SMALL …
    first = unicodedata.name(letter, "UNKNOWN").replace("-", " ").split()[0]
    if first in ("MODIFIER", "FEMININE", "MASCULINE", "MICRO", "DOUBLE", "SCRIPT", "MATHEMATICAL"):
        return None
    if first in ("FULLWIDTH", "HALFWIDTH", "IDEOGRAPHIC"):
        return "East Asian"
    return _WRITINGS.get(first, first.capitalize())


def is_empty(content: str, calls: Iterable[object]) -> bool:
    """Whether a reply says nothing and calls nothing, whatever it thought."""
    return not content.strip() and not any(True for _ in calls)
