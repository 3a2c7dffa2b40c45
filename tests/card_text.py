"""The text of a card as tests read it."""

NO_BREAK_SPACE, WORD_JOINER = "\N{NO-BREAK SPACE}", "\N{WORD JOINER}"


def breakable(text: str) -> str:
    """The text without the characters that keep an interval on one line."""
    return text.replace(NO_BREAK_SPACE, " ").replace(WORD_JOINER, "")
