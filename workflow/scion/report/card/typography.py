"""What keeps a number and its interval on one line, wherever the card is shown.

Pages of hubs take styles away, so it is said in the text: by no-break spaces, and by word joiners
around the dash, after which a line may end otherwise.
"""

import re

_NO_BREAK_SPACE, _WORD_JOINER = "\N{NO-BREAK SPACE}", "\N{WORD JOINER}"
_NUMBER = r"[+\N{MINUS SIGN}-]?\d[\d,.]*"
INTERVAL = re.compile(rf"{_NUMBER}(?: ?%|×)? \({_NUMBER}(?:–| to ){_NUMBER}\)")
_PERCENT = re.compile(r"(?<=\d) (?=%)")


def unbroken(text: str) -> str:
    """Text whose intervals and percentages do not break; no other character is changed.

    Args:
        text: Markdown with numbers as `scion.common.text` writes them.
    """
    joined = INTERVAL.sub(lambda found: _joined(found.group()), text)
    return _PERCENT.sub(_NO_BREAK_SPACE, joined)


def breakable(text: str) -> str:
    """The text that `unbroken` was given."""
    return text.replace(_NO_BREAK_SPACE, " ").replace(_WORD_JOINER, "")


def _joined(interval: str) -> str:
    dash = f"{_WORD_JOINER}–{_WORD_JOINER}"
    return interval.replace(" ", _NO_BREAK_SPACE).replace("–", dash)
