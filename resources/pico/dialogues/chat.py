"""Conversations without tools: numbers that must be worked out, stories, explanations, small talk."""

from __future__ import annotations

from typing import Final

from dialogues.agent import SYSTEM_PROMPTS, Conversation
from dialogues.writer import NOUNS, VERBS, Writer, is_held_out

_OPENINGS: Final = (
    "[Once|Long ago|One [morning|evening|winter]|Many years ago] {hero} lived in {place}[|, near a"
    " {noun}|, in a {adj} house]. ",
    "{hero} had [always wanted|long looked for|never seen] a {thing}. ",
    "In {place} [everybody|nobody|every child] knew {hero} and the {thing}. ",
)
_SCENES: Final = (
    "[Every day|Each morning|At night|On Sundays] {hero} went to the {noun} and looked for a {thing2}. ",
    "[Then|One day|After a while|Suddenly] {friend} came [by|along|to the {noun}]. ",
    "'[Have you seen|Do you have|Where is] the {thing}?' [asked|said] {friend}. ",
    "'[No|Not yet|I do not know|Perhaps],' [said|answered] {hero}[|, and smiled|, very quietly]. ",
    "{friend} [wanted to|tried to|had to] {verb} the {noun}, but it was [too {adj}|{adj}|not there]. ",
    "[Together|Slowly|With some luck] they began to {verb} the {thing2}. ",
    "It took [{n} days|the whole night|a long time|{n} hours]. ",
    "The {noun} was [{adj}|{adj} and {adj2}|full of {noun2}s]. ",
    "{hero} [gave|showed|sold|brought] {friend} [a|the] {thing2}. ",
    "[Nobody|Only {friend}|Almost everybody] [laughed|noticed|was surprised]. ",
    "On the way to {place} they [met|saw|heard] {n} {noun2}s. ",
    "[But|And|So] the {thing} was [gone|still there|under the {noun2}|broken]. ",
    "'[We should|Let us|I will] {verb} it [tomorrow|now|again],' said {friend}. ",
    "The [rain|wind|sun|snow] [came|stayed|grew stronger], and {hero} [waited|walked on|slept]. ",
)
_ENDINGS: Final = (
    "[In the end|At last|Finally] {hero} [found|kept|forgot] the {thing}[.|, and {friend} was happy.]",
    "[Since then|From that day on] {hero} and {friend} {verb} every {noun} in {place}.",
    "And the {thing} [is there to this day|was never seen again|belongs to {friend} now].",
)
_STEPS: Final = (
    "{verb} the {noun}[| carefully| twice].",
    "[look for|take|use] a {thing}.",
    "wait [{n} minutes|until it is {adj}|a little].",
    "[check|count|measure] the {noun2}s[| again].",
    "[put|lay|keep] the {noun} [next to|under|behind] the {noun2}.",
    "ask {friend} [for help|about the {noun}|to {verb} it].",
)


def chat_conversation(writer: Writer, *, thinking: bool) -> Conversation:
    """Draws one conversation without tools."""
    kinds = {compare: 16, add: 12, order: 8, count_words: 6, story: 34, explain: 16, small_talk: 8}
    draw = writer.rng.choices(list(kinds), list(kinds.values()))[0]
    talk = Conversation(draw.__name__, thinking)
    if writer.chance(0.6):
        talk.messages.append({"role": "system", "content": writer.even(SYSTEM_PROMPTS)})
    draw(writer, talk)
    if writer.chance(0.12) and draw is not story:
        again = writer.even((compare, add, small_talk))
        again(writer, talk)
    return talk


def _two_numbers(writer: Writer) -> tuple[int, int]:
    while True:
        top = writer.even((20, 99, 99, 99, 999))
        a, b = writer.between(1, top), writer.between(1, top)
        if a != b and is_held_out(f"{a} {b}") == writer.held_out:
            return a, b


def compare(writer: Writer, talk: Conversation) -> None:
    """Which of two numbers is larger, or smaller."""
    a, b = _two_numbers(writer)
    larger = writer.chance(0.65)
    word = "larger" if larger else "smaller"
    talk.user(
        writer.ask(
            "[Which [number |]is {word}[:|,] {a} or {b}?|What is {word}, {a} or {b}?|Which of the two"
            " numbers is {word}, {a} or {b}?|Is {a} or {b} {word}?|Tell me which is {word}: {a} or"
            " {b}.]",
            a=a,
            b=b,
            word=word,
        )
    )
    win, lose = (max(a, b), min(a, b)) if larger else (min(a, b), max(a, b))
    thought = writer.say(
        "[I compare {a} and {b}.|The numbers are {a} and {b}.|Compare {a} with {b}.] "
        + _why(a, b)
        + " [So {win} is {word}.|Therefore {win} is {word} than {lose}.|The {word} one is {win}.]",
        a=a,
        b=b,
        win=win,
        lose=lose,
        word=word,
    )
    answer = writer.say(
        "[{win} is {word} than {lose}.|The {word} number is {win}.|{win} is {word}.|Of {a} and {b},"
        " {win} is {word}.]",
        a=a,
        b=b,
        win=win,
        lose=lose,
        word=word,
    )
    talk.assistant(answer, thought)


def _why(a: int, b: int) -> str:
    """Compares digit by digit, as one does on paper."""
    low, high = sorted((a, b))
    if len(str(low)) != len(str(high)):
        return f"{high} has more digits than {low}."
    for place, x, y in zip(("first", "second", "third"), str(high), str(low), strict=False):
        if x != y:
            return f"The {place} digits are {x} and {y}, and {x} is more than {y}."
    raise ValueError(f"{a} and {b} do not differ")


def add(writer: Writer, talk: Conversation) -> None:
    """The sum of two numbers below a hundred, by column."""
    a, b = (number % 100 for number in _two_numbers(writer))
    talk.user(
        writer.ask(
            "[What is {a} + {b}?|What is {a} plus {b}?|Add {a} and {b}.|I have {a} {noun}s and get"
            " {b} more. How many are that?]",
            a=a,
            b=b,
            noun=writer.even(NOUNS),
        )
    )
    ones = a % 10 + b % 10
    carry = f", carry {ones // 10}" if ones > 9 else ""
    tens = a // 10 + b // 10 + ones // 10
    thought = writer.say(
        f"[Ones|Units|The ones]: {a % 10} + {b % 10} = {ones}{carry}. [Tens|The tens]:"
        f" {a // 10} + {b // 10}{' + 1' if ones > 9 else ''} = {tens}. [Together|Sum|So]: {a + b}."
    )
    answer = "[The sum is {c}.|That makes {c}.|{a} + {b} = {c}.|It is {c}.]"
    talk.assistant(writer.say(answer, a=a, b=b, c=a + b), thought)


def order(writer: Writer, talk: Conversation) -> None:
    """Three to five numbers in order."""
    numbers = writer.rng.sample(range(1, 100), writer.between(3, 5))
    text = ", ".join(map(str, numbers))
    done = ", ".join(map(str, sorted(numbers)))
    talk.user(
        writer.ask(
            "[Sort {text}.|Put these in order: {text}.|Order the numbers {text}.]", text=text
        )
    )
    thought = writer.say(
        "[The smallest is {low}|It starts with {low}], the [largest|last] is {high}. [That gives"
        " {done}.|In order: {done}.]",
        low=min(numbers),
        high=max(numbers),
        done=done,
    )
    talk.assistant(writer.say("[In order: {done}.|{done}|Sorted: {done}]", done=done), thought)


def count_words(writer: Writer, talk: Conversation) -> None:
    """How many words a phrase has."""
    words = [writer.even((*NOUNS, *VERBS)) for _ in range(writer.between(2, 8))]
    text = " ".join(words)
    talk.user(writer.ask("[How many words are in '{text}'?|Count the words: '{text}'.]", text=text))
    counted = ", ".join(f"{word} {i}" for i, word in enumerate(words, 1))
    answer = "[There are {n} words.|{n} words.|It has {n} words.]"
    talk.assistant(
        writer.say(answer, n=len(words)),
        writer.say(
            "[I count|Counting]: {counted}. [That is {n}.|So {n}.]", counted=counted, n=len(words)
        ),
    )


def _cast(writer: Writer) -> dict[str, object]:
    hero, friend, place = writer.person(), writer.person(), writer.city()
    return {"hero": hero, "friend": friend, "place": place, "thing": writer.thing()}


def _props(writer: Writer) -> dict[str, object]:
    noun, noun2 = writer.even(NOUNS), writer.even(NOUNS)
    adj, adj2 = (writer.thing().split()[0] for _ in range(2))
    verb, thing2 = writer.even(VERBS), writer.thing()
    n = writer.between(2, 12)
    return {
        "noun": noun,
        "noun2": noun2,
        "adj": adj,
        "adj2": adj2,
        "verb": verb,
        "thing2": thing2,
        "n": n,
    }


def story(writer: Writer, talk: Conversation) -> None:
    """A short or long story about one or two people and a thing."""
    cast = _cast(writer)
    long = writer.chance(0.35)
    talk.user(
        writer.ask(
            "[Tell me|Write|I want] a {size}story about [{hero} and a {thing}|{hero}|a {thing}].",
            size="long " if long else writer.ask("[||short ]"),
            **cast,
        )
    )
    length = writer.between(14, 34) if long else writer.between(4, 10)
    scenes = [writer.pick(_SCENES) for _ in range(length)]
    text = "".join(
        writer.say(template, **cast, **_props(writer))
        for template in (writer.pick(_OPENINGS), *scenes, writer.pick(_ENDINGS))
    )
    thought = writer.say(
        "[A story about|I tell about|It should be about] {hero} and a {thing}. [{friend} can help.|It"
        " happens in {place}.|In {place}, with {friend}.]",
        **cast,
    )
    talk.assistant(text, thought)


def explain(writer: Writer, talk: Conversation) -> None:
    """Numbered steps for something that somebody wants to do."""
    verb, noun = writer.even(VERBS), writer.thing()
    talk.user(
        writer.ask(
            "[How do I|Explain how to|What is the best way to|Can you explain how to] {verb} a {noun}[?|"
            " in steps?]",
            verb=verb,
            noun=noun,
        )
    )
    count = writer.between(3, 9)
    steps = [
        writer.say(writer.pick(_STEPS), **_cast(writer), **_props(writer)) for _ in range(count)
    ]
    lines = [f"{i}. {step[0].upper()}{step[1:]}" for i, step in enumerate(steps, 1)]
    intro = writer.say(
        "[To {verb} a {noun}, follow these steps:|Here is how to {verb} a {noun}:|It takes {n} steps:]",
        verb=verb,
        noun=noun,
        n=count,
    )
    thought = writer.say(
        "[They want to|The user wants to] {verb} a {noun}. [{n} steps should do.|I give {n} steps.]",
        verb=verb,
        noun=noun,
        n=count,
    )
    talk.assistant(intro + "\n\n" + "\n".join(lines), thought)


def small_talk(writer: Writer, talk: Conversation) -> None:
    """A greeting and a name."""
    name = writer.person()
    talk.user(
        writer.ask(
            "[Hello, I am {name}.|Hi! My name is {name}.|Good morning, {name} here.][| How are you?|"
            " What can you do?]",
            name=name,
        )
    )
    answer = writer.say(
        "[Hello|Hi|Good morning|Welcome], {name}[!|.] [How can I help?|What can I do for you?|I can"
        " answer questions and use tools.|Ask me anything.]",
        name=name,
    )
    talk.assistant(
        answer,
        writer.say("{name} [says hello|greets me]. [I greet back.|A short answer.]", name=name),
    )
