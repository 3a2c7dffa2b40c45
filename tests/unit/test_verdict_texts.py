"""Texts that are broken, and those that only look so."""

# ruff: noqa: RUF001
import pytest

from scion.evaluation.verdict.texts import ends_in_loop, foreign_writing, is_empty

STEP = (
    "Wait, let me check the schedule again. The train leaves at 9:40 from platform 3, so we would "
    "have to be at the station by 9:30. "
)
PLAN = (
    "To plan a trip to Lisbon we need flights, a hotel near the river and two days for museums. "
    "Flights leave on Monday and on Thursday; the later one is cheaper. A hotel in Alfama is close "
    "to the tram. On the first day we see the castle, on the second the tile museum, and in the "
)


@pytest.mark.parametrize(
    "text",
    [
        STEP * 6,
        # The limit cuts where it likes: within a word, within the unit.
        (STEP * 6)[:-31],
        "Sure! Here is the answer: " + "the the " * 20,
        "<tool_call>" + '{"city": "Paris"}, ' * 12,
        "First some sense, at some length and without a repeat. " + "Okay, so. " * 12,
        "好的，" + "我们需要检查时刻表。" * 5,
        "1, 2, " * 30,
    ],
)
def test_a_loop_up_to_the_end_is_found(text: str) -> None:
    assert ends_in_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PLAN,
        # Three times is a figure of speech.
        "Never, never, never give up, said the man who had",
        STEP * 3,
        # A loop that the model left again.
        STEP * 6 + PLAN,
        "".join(f"{number}. item number {number}\n" for number in range(1, 60)),
        "| city | sky |\n|---|---|\n| Oslo | clear |\n| Bergen | rain |\n| Bodø | snow |\n| Tromsø",
        "好的，我们先看火车时刻表，然后决定住在哪里，最后买票。",
    ],
)
def test_a_text_that_goes_on_is_no_loop(text: str) -> None:
    assert not ends_in_loop(text)


@pytest.mark.parametrize(
    ("reply", "prompt", "found"),
    [
        ("The weather in Paris is 晴朗 today.", "How is the weather in Paris?", "East Asian"),
        ("Итак, the sum is 12.", "What is 5 and 7?", "Cyrillic"),
        ("Answer: العاصمة هي باريس", "Name the capital of France.", "Arabic"),
        ("답은 12입니다", "What is 5 and 7?", "East Asian"),
        ("The answer is twelve.", "五加七等于多少？", "Latin"),
        ("दिल्ली is the capital", "Which city?", "Devanagari"),
    ],
)
def test_a_reply_in_another_script(reply: str, prompt: str, found: str) -> None:
    assert foreign_writing(reply, prompt) == found


@pytest.mark.parametrize(
    ("reply", "prompt"),
    [
        ("It is 18 °C in São Paulo, naïve as that may be.", "How is the weather in Sao Paulo?"),
        # Symbols are no words.
        ("The angle α is π/2, so Δx = 3 µm.", "Solve the equation."),
        ("That costs 5 € ± 2 %, i.e. №7 → ½ ✓ 😀", "How much is it?"),
        ("The sign 中 means middle.", "Explain one Chinese sign."),
        ("Москва is what they call Moscow.", "What does Москва mean?"),
        # Japanese is written in three scripts.
        ("東京はとても大きいです。カメラ", "東京について"),
        ("e\u0301te\u0301 is French for summer", "Translate summer"),
        ("Anything at all", "5 + 7 = ?"),
        ("用 Python 写一个函数来计算面积", "怎么计算面积"),
        ("", "How is the weather?"),
    ],
)
def test_a_reply_in_the_prompts_own_script(reply: str, prompt: str) -> None:
    assert foreign_writing(reply, prompt) is None


def test_a_reply_is_empty_that_neither_says_nor_calls_anything() -> None:
    assert is_empty(" \n", [])
    assert not is_empty("", [("get_time", "{}")])
    assert not is_empty("No.", [])
