"""Text as pages of hubs need it, which read Markdown with tags of HTML and take styles away.

What keeps a number and its interval on one line is therefore said in the text: no-break spaces, and
word joiners around the dash, after which a line may end otherwise.
"""

import re

_NO_BREAK_SPACE, _WORD_JOINER = "\N{NO-BREAK SPACE}", "\N{WORD JOINER}"
_NUMBER = r"[+\N{MINUS SIGN}-]?\d[\d,.]*"
INTERVAL = re.compile(rf"{_NUMBER}(?: ?%|×)? \({_NUMBER}(?:–| to ){_NUMBER}\)")
_PERCENT = re.compile(r"(?<=\d) (?=%)")
_CODE_OR_TAG = re.compile(r"(`[^`]*`)|<")


def unbroken(text: str) -> str:
    """Text whose intervals and percentages do not break; no other character is changed.

    Args:
        text: Markdown with numbers as `scion.common.text` writes them.
    """
    joined = INTERVAL.sub(lambda found: _joined(found.group()), text)
    return _PERCENT.sub(_NO_BREAK_SPACE, joined)


def without_tags(text: str) -> str:
    """Text of a configuration in which nothing is a tag: `<think>` would show nothing."""
    return _CODE_OR_TAG.sub(lambda found: found[1] or "&lt;", text)


def _joined(interval: str) -> str:
    dash = f"{_WORD_JOINER}–{_WORD_JOINER}"
    return interval.replace(" ", _NO_BREAK_SPACE).replace("–", dash)
