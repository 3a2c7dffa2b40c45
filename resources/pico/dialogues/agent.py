"""Conversations with tools: one call, several at once, one after the other, none, and what follows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from dialogues.tools import TOOLS, Arguments, Tool
from dialogues.writer import Writer

Message = dict[str, Any]

SYSTEM_PROMPTS: Final = (
    "You are a helpful agent that uses tools when needed.",
    "You are a helpful assistant.",
    "You are an agent. Call functions when they help.",
    "You help people with small tasks and answer briefly.",
    "Use the functions you have. Ask when something is missing.",
    "You are a careful assistant with access to tools.",
)

_GREETING: Final = "[||||||Hello. |Hi! |Good morning. |A question. ]"
_AT_ONCE: Final = "[simultaneously|at the same time|in parallel|at once|together|all in one go]"
_LEAD: Final = "[|Of course. |Sure. |Let me see. |One moment. |I will look that up. |Let me check that for you. ]"
_CLOSING: Final = (
    "[|||| Can I do anything else?| Tell me if you need more.| Anything else?| I hope this helps.]"
)
_TABLE_WISH: Final = (
    "[Show|Put|Give me|Present|Summarize] [the results|both|everything|it all] [in|as] a [markdown |]"
    "table."
)


@dataclass(frozen=True)
class Call:
    """One call of a tool, with the facts that it will return."""

    name: str
    arguments: Arguments
    facts: dict[str, Any]

    @property
    def tool(self) -> Tool:
        """The tool that is called."""
        return TOOLS[self.name]

    @property
    def fields(self) -> dict[str, Any]:
        """Arguments and facts, for templates."""
        return self.arguments | self.facts

    def ask(self, writer: Writer) -> str:
        """A sentence that asks for this call."""
        return writer.ask(self.tool.asks, **self.arguments)

    def subject(self, writer: Writer) -> str:
        """Names this call inside a sentence."""
        return writer.say(self.tool.subject, **self.arguments)


@dataclass
class Conversation:
    """One dialogue as the chat API takes it.

    Attributes:
        kind: what it shows; data sets are mixed and figures reported by it.
        thinking: whether the assistant's turns carry reasoning.
    """

    kind: str
    thinking: bool
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)

    def user(self, text: str) -> None:
        """Adds what the person says."""
        self.messages.append({"role": "user", "content": text})

    def assistant(self, content: str, thought: str, calls: list[Call] | None = None) -> None:
        """Adds an assistant turn, the reasoning only if this conversation thinks."""
        message: Message = {"role": "assistant", "content": content}
        if self.thinking:
            message["reasoning_content"] = thought
        if calls:
            first = sum(len(m.get("tool_calls", [])) for m in self.messages)
            message["tool_calls"] = [
                {
                    "id": f"call_{first + i}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for i, call in enumerate(calls, 1)
            ]
        self.messages.append(message)

    def results(self, calls: list[Call]) -> None:
        """Adds one tool message for each call of the turn before."""
        for made, call in zip(self.messages[-1]["tool_calls"], calls, strict=True):
            content = json.dumps(call.facts, ensure_ascii=False)
            message = {"role": "tool", "tool_call_id": made["id"], "content": content}
            self.messages.append(message)


def agent_conversation(writer: Writer, *, thinking: bool) -> Conversation:
    """Draws one conversation in which tools are at hand."""
    kinds = {single: 26, parallel: 26, consecutive: 24, unfit: 10, incomplete: 14}
    draw = writer.rng.choices(list(kinds), list(kinds.values()))[0]
    talk = Conversation(draw.__name__, thinking)
    if writer.chance(0.85):
        prompt = SYSTEM_PROMPTS[0] if writer.chance(0.35) else writer.even(SYSTEM_PROMPTS)
        talk.messages.append({"role": "system", "content": prompt})
    used = draw(writer, talk)
    others = [name for name in TOOLS if name not in used]
    names = {*used, *writer.rng.sample(others, writer.rng.choices((0, 1, 2, 3), (4, 3, 2, 1))[0])}
    if not names:
        names = {writer.even(others)}
    ordered = writer.rng.sample(sorted(names), len(names))
    talk.tools = [TOOLS[name].schema(name, writer) for name in ordered]
    return talk


def single(writer: Writer, talk: Conversation) -> set[str]:
    """One call, its answer; sometimes the same question about something else follows."""
    call = _call(writer, _tool_name(writer))
    talk.user(writer.ask(_GREETING) + call.ask(writer))
    _make_calls(writer, talk, [call], _first_thought(writer, [call]))
    _report(writer, talk, [call], table=False)
    if writer.chance(0.25) and (key := _only_string(call.tool)):
        again = _call(writer, call.name)
        talk.user(writer.ask("[And|What about|And for|Now] {value}?", value=again.arguments[key]))
        _make_calls(writer, talk, [again], _first_thought(writer, [again]))
        _report(writer, talk, [again], table=False)
    return {call.name}


def parallel(writer: Writer, talk: Conversation) -> set[str]:
    """Two to four calls in one turn, of one tool or of several."""
    count = writer.rng.choices((2, 3, 4), (4, 5, 2))[0]
    calls = _several(writer, count)
    same = len({call.name for call in calls}) == 1
    table = writer.chance(0.3)
    if same and (text := _joint_subject(writer, calls)):
        request = writer.ask(
            "[[Get|Check|Look up|Find|Tell me|I need|Give me] {text} {at_once}.|{lead} {text}.]",
            text=text,
            at_once=writer.ask(_AT_ONCE),
            lead=writer.ask("[Get|Check|Look up|Tell me|I need|Please get]"),
        )
    else:
        how = writer.ask(f"[||Do this {_AT_ONCE}. |Please do these {_AT_ONCE}. ]")
        request = how + " ".join(call.ask(writer) for call in calls)
    request += " " + writer.ask(_TABLE_WISH) if table else ""
    talk.user(writer.ask(_GREETING) + request)
    thought = writer.say(
        "[The user wants|They ask for|I need] {n} [things|answers]: {all}. [The calls do not depend"
        " on each other, so I make them together.|I can call all of them at once.|All {n} calls can"
        " go in one turn.|So {n} calls.]",
        n=len(calls),
        all=writer.listing([call.subject(writer) for call in calls]),
    )
    _make_calls(writer, talk, calls, thought)
    _report(writer, talk, calls, table=table)
    return {call.name for call in calls}


def consecutive(writer: Writer, talk: Conversation) -> set[str]:
    """Two or three calls, each in its own turn because the person asks for an order."""
    calls = _several(writer, writer.rng.choices((2, 3), (4, 1))[0])
    table = writer.chance(0.5)
    talk.user(_ordered_request(writer, calls) + (" " + writer.ask(_TABLE_WISH) if table else ""))
    for i, call in enumerate(calls):
        thought = _first_thought(writer, calls[:1])
        if i:
            thought = writer.say(
                "[{done} is known|I have {done}|{done} is done|The first part, {done}, is there]."
                " [Next is|Now I need|Still missing:|The next call is for] {next}.",
                done=calls[i - 1].subject(writer),
                next=call.subject(writer),
            )
        _make_calls(writer, talk, [call], thought, lead=0.15)
    _report(writer, talk, calls, table=table)
    return {call.name for call in calls}


def unfit(writer: Writer, talk: Conversation) -> set[str]:
    """A wish that no tool at hand can fulfil."""
    call = _call(writer, _tool_name(writer))
    talk.user(writer.ask(_GREETING) + call.ask(writer))
    subject = call.subject(writer)
    thought = writer.say(
        "[The user wants|This is about] {subject}. [None of my functions does that|No function here"
        " fits|My tools can not do it], so I [say so|must decline|tell them].",
        subject=subject,
    )
    content = writer.say(
        "[I am sorry, |Sorry, |Unfortunately ][I have no tool for {subject}|I can not help with"
        " {subject}|none of my functions covers {subject}].[| I can help with other things.| Is there"
        " something else?]",
        subject=subject,
    )
    talk.assistant(content, thought)
    available = [name for name in TOOLS if name != call.name]
    return set(writer.rng.sample(available, writer.between(1, 3)))


def incomplete(writer: Writer, talk: Conversation) -> set[str]:
    """A wish with its main argument missing: the assistant asks, the person tells, the call follows."""
    name = writer.even([name for name, tool in TOOLS.items() if tool.lacks])
    call = _call(writer, name)
    key, asks, word = call.tool.lacks or ("", "", "")
    talk.user(writer.ask(_GREETING) + writer.ask(asks, **call.arguments))
    thought = writer.say(
        "[The {word} is missing|They did not name the {word}|I do not know the {word}]. [I have to"
        " ask|I should ask first|So I ask for it].",
        word=word,
    )
    content = writer.say(
        "[Which {word} do you mean?|What is the {word}?|Please tell me the {word}.|I need the {word}"
        " for that. Which one is it?]",
        word=word,
    )
    talk.assistant(content, thought)
    if writer.chance(0.6):
        talk.user(
            writer.ask(
                "[{value}|{value}.|It is {value}.|{value}, please.]", value=call.arguments[key]
            )
        )
        _make_calls(writer, talk, [call], _first_thought(writer, [call]))
        _report(writer, talk, [call], table=False)
    return {name}


def _tool_name(writer: Writer) -> str:
    return "get_weather" if writer.chance(0.3) else writer.even(list(TOOLS))


def _call(writer: Writer, name: str) -> Call:
    arguments = TOOLS[name].draw_arguments(writer)
    return Call(name, arguments, TOOLS[name].result(writer, arguments))


def _several(writer: Writer, count: int) -> list[Call]:
    """Calls of one tool most of the time; no two of them alike."""
    first = _call(writer, _tool_name(writer))
    same = _only_string(first.tool) is not None or writer.chance(0.4)
    calls = [first]
    while len(calls) < count:
        call = _call(writer, first.name if same else _tool_name(writer))
        if call.arguments not in [other.arguments for other in calls]:
            calls.append(call)
    return calls


def _only_string(tool: Tool) -> str | None:
    """The name of the only argument if it is free text, else None."""
    [name, *more] = tool.parameters
    return name if not more and tool.parameters[name].schema == {"type": "string"} else None


def _joint_subject(writer: Writer, calls: list[Call]) -> str | None:
    """`the weather in A, B, and C` for calls of a tool with one text argument."""
    key = _only_string(calls[0].tool)
    if key is None:
        return None
    values = [str(call.arguments[key]) for call in calls]
    return writer.ask(calls[0].tool.subject, **{key: writer.listing(values)})


def _ordered_request(writer: Writer, calls: list[Call]) -> str:
    key = _only_string(calls[0].tool)
    if key and len(calls) == 2 and len({call.name for call in calls}) == 1 and writer.chance(0.7):
        return writer.ask(
            "[Get|Check|Look up|Find] {subject} [first, and then|first and then|and after that|and"
            " then|, then] [for |in |that of |]{other}[.|, one after the other.|, step by step.|, and"
            " compare them.]",
            subject=calls[0].subject(writer),
            other=calls[1].arguments[key],
        ).replace(" ,", ",")
    parts = [writer.ask("[First: |Start with this: |Step by step, please. |First, ]")]
    for i, call in enumerate(calls):
        parts.append(writer.ask("[ Then: | After that: | When you have it: ]") if i else "")
        parts.append(call.ask(writer))
    return "".join(parts)


def _first_thought(writer: Writer, calls: list[Call]) -> str:
    return writer.say(
        "[The user wants|They want to know|I am asked for|This is about] {subject}. [{tool} can do"
        " that|I will call {tool}|The function {tool} fits|So I use {tool}].",
        subject=calls[0].subject(writer),
        tool=calls[0].name,
    )


def _make_calls(
    writer: Writer, talk: Conversation, calls: list[Call], thought: str, lead: float = 0.35
) -> None:
    content = writer.say(_LEAD).strip() if writer.chance(lead) else ""
    talk.assistant(content, thought, calls)
    talk.results(calls)


def _report(writer: Writer, talk: Conversation, calls: list[Call], *, table: bool) -> None:
    """The final answer, in prose or as a table, with something that follows from the results."""
    same = len({call.name for call in calls}) == 1
    if not table and same and len(calls) > 2:
        table = writer.pick((False, True))
    remark = _remark(writer, calls) if same and writer.chance(0.7) else ""
    thought = (
        writer.say(
            "[I have [everything|what I need]|The result is here|That answers it|Now I can answer]."
            "[| {remark}][| I answer in a sentence.| I report it.]",
            remark=remark,
        )
        .replace("  ", " ")
        .strip()
    )
    if table:
        thought = writer.say(
            "[All results are here|I have everything|Both parts are known|Nothing is missing]."
            "[| {remark}] [A table was asked for.|I write a table.|Now the table.]",
            remark=remark,
        )
        body = writer.say("[|Here is the table.\n\n|The results:\n\n|Here you go:\n\n]")
        body += _table(calls) + ("\n\n" + remark if remark else "")
    else:
        reports = [writer.say(call.tool.report, **call.fields) for call in calls]
        body = " ".join([*reports, remark]).strip() + writer.say(_CLOSING)
    talk.assistant(body, thought)


def _table(calls: list[Call]) -> str:
    """A markdown table; calls of different tools become rows of what was asked and found."""
    columns = calls[0].tool.columns
    if len({call.name for call in calls}) > 1:
        head = ["Function", "Result"]
        rows = [[call.name, str(list(call.facts.values())[-1])] for call in calls]
    else:
        head = list(columns)
        rows = [[str(call.fields[key]) for key in columns.values()] for call in calls]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _remark(writer: Writer, calls: list[Call]) -> str:
    """What follows from several results: a difference, an extreme, a count."""
    if len(calls) < 2:
        return ""
    if calls[0].name == "get_weather":
        ranked = sorted(calls, key=lambda call: call.facts["temperature_c"])
        low, high = ranked[0].fields, ranked[-1].fields
        warm = sum(call.facts["temperature_c"] >= 20 for call in calls)
        return writer.say(
            "[{low} is the coldest with {a} °C.|{n} of {all} have 20 °C or more.|{high} is warmer than"
            " {low} by {d} °C.|{high} is the warmest with {b} °C.]",
            low=low["city"],
            high=high["city"],
            a=low["temperature_c"],
            b=high["temperature_c"],
            d=high["temperature_c"] - low["temperature_c"],
            n=warm,
            all=len(calls),
        )
    numbers = [
        (heading, key)
        for heading, key in calls[0].tool.columns.items()
        if all(isinstance(call.fields[key], int) for call in calls)
    ]
    if not numbers:
        return writer.say("[That makes {n} results.|{n} results in all.]", n=len(calls))
    heading, key = numbers[-1]
    values = [call.fields[key] for call in calls]
    return writer.say(
        "[The lowest {what} is {low}.|The {what} goes from {low} to {high}.|The highest {what} is"
        " {high}.]",
        what=heading.lower(),
        low=min(values),
        high=max(values),
    )
