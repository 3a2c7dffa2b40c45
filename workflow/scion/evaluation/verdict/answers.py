"""What release and source answered, read from the records of the stages that asked them.

Three evaluations keep every answer, each in its own form; here they have one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scion.common.errors import ScionError
from scion.evaluation.verdict.texts import ends_in_loop, foreign_writing, is_empty

# What the server's parser of tool calls leaves in a text if it understands none.
_CALL_MARKS = ("<tool_call>", "</tool_call>", "<function=", "<parameter=")
# The prompts of BFCL, which its answers do not repeat, are English.
_ENGLISH = "English"


@dataclass(frozen=True)
class JudgedReply:
    """One answer of one model.

    Attributes:
        case: What was asked, one name in all evaluations.
        prompt: The prompt, as a unit of intervals: several cases may share it.
        asked: All that the model was given to read, as far as the record has it.
        passed: Whether the evaluation calls it right.
        thinking: The part that the server split off.
        content: The answer.
        calls: Name and arguments, a JSON text, of each tool call.
        tokens: Of thinking and answer together; None where the record does not say.
        thinking_tokens: Of these, the thinking's; None likewise.
        cut: Whether it ended at its limit.
        tools: Names of the tools that were offered; None without any; empty where the record does
            not name them.
    """

    case: str
    prompt: str
    asked: str
    passed: bool
    thinking: str
    content: str
    calls: tuple[tuple[str, str], ...]
    tokens: int | None
    thinking_tokens: int | None
    cut: bool
    tools: tuple[str, ...] | None

    @property
    def written(self) -> str:
        """All that the model wrote, in its order."""
        return "\n".join((self.thinking, self.content, *(text for _, text in self.calls))).strip()

    @property
    def loops(self) -> bool:
        """Whether it was cut off in a loop."""
        return self.cut and ends_in_loop(self.written)

    @property
    def turns(self) -> bool:
        """Whether it turns to a script of which its prompt has no letter."""
        return foreign_writing(self.written, self.asked) is not None

    @property
    def is_empty(self) -> bool:
        """Whether there is neither answer nor call."""
        return is_empty(self.content, self.calls)

    @property
    def is_broken(self) -> bool:
        """Whether it is broken as a text."""
        return self.loops or self.turns or self.is_empty

    @property
    def is_malformed(self) -> bool:
        """Whether its tool calls have a fault of form; one that was cut off may be incomplete."""
        if self.tools is None or self.cut:
            return False
        if any(mark in self.content for mark in _CALL_MARKS):
            return True
        return any(
            bool(self.tools and name not in self.tools) or not _is_object(text)
            for name, text in self.calls
        )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _thinking(message: Mapping[str, Any]) -> str:
    """What the server split off; engines call it one or the other."""
    return message.get("reasoning") or message.get("reasoning_content") or ""


def _calls(message: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    functions = (call["function"] for call in message.get("tool_calls") or ())
    return tuple((function["name"], function["arguments"]) for function in functions)


Pairs = Sequence[tuple[JudgedReply, JudgedReply]]
"""The release's reply and the source's to each case."""


def agent_replies(record: Mapping[str, Any]) -> Iterator[JudgedReply]:
    """The answers of `agent_tasks.json`."""
    for task in record["tasks"]:
        for result in task["results"]:
            request, response = result["request"], result["response"]
            (choice,) = response["choices"]
            message, usage = choice["message"], response.get("usage") or {}
            details = usage.get("completion_tokens_details") or {}
            messages, tools = request["messages"], request.get("tools")
            yield JudgedReply(
                case=f"agent: {task['name']}, {result['name']}",
                prompt=f"agent: {messages[1]['content']}",
                asked=json.dumps([messages, tools], ensure_ascii=False),
                passed=result["passed"],
                thinking=_thinking(message),
                content=message.get("content") or "",
                calls=_calls(message),
                tokens=usage.get("completion_tokens"),
                thinking_tokens=details.get("reasoning_tokens"),
                cut=choice["finish_reason"] == "length",
                tools=tuple(tool["function"]["name"] for tool in tools) if tools else None,
            )


def ifeval_replies(answers: Iterable[Mapping[str, Any]]) -> Iterator[JudgedReply]:
    """The answers of `ifeval_answers.jsonl`; right is what the strict score of a prompt calls so.

    Without the counts of tokens, as older stages wrote them, a reply counts as not cut.
    """
    for answer in answers:
        yield JudgedReply(
            case=f"ifeval: {answer['key']}",
            prompt=f"ifeval: {answer['key']}",
            asked=answer["prompt"],
            passed=bool(answer["prompt_level_strict_acc"]),
            thinking="",
            content=answer["answer"],
            calls=(),
            tokens=answer.get("tokens"),
            thinking_tokens=answer.get("thinking_tokens"),
            cut=bool(answer.get("cut")),
            tools=None,
        )


def bfcl_replies(answers: Iterable[Mapping[str, Any]], *, max_tokens: int) -> Iterator[JudgedReply]:
    """The answers of `bfcl_answers.jsonl`.

    Args:
        answers: One a case.
        max_tokens: Longest answer; the server's own word on the end does not tell, for it is
            `tool_calls` also where the last of them is cut.
    """
    for answer in answers:
        message = answer["choice"]["message"]
        tokens = answer["output_token_count"]
        yield JudgedReply(
            case=f"bfcl: {answer['category']}, {answer['id']}",
            prompt=f"bfcl: {answer['category']}, {answer['id']}",
            asked=_ENGLISH,
            passed=answer["passed"],
            thinking=_thinking(message),
            content=message.get("content") or "",
            calls=_calls(message),
            tokens=tokens,
            thinking_tokens=None,
            cut=tokens >= max_tokens,
            tools=(),
        )


def paired(release: Iterable[JudgedReply], source: Iterable[JudgedReply]) -> Pairs:
    """The replies to the cases that both were asked, in the release's order.

    A case that fits the context of one of the two alone has no pair.

    Raises:
        ScionError: No case is the same, or one of the same name asked something else.
    """
    others = {reply.case: reply for reply in source}
    own = list(release)
    pairs = [(reply, others[reply.case]) for reply in own if reply.case in others]
    for reply, other in pairs:
        if reply.asked != other.asked:
            raise _differ(reply.case, "the same messages and tools", "others")
    if own and not pairs:
        raise _differ(own[0].case, "cases that both were asked", f"none of {len(own)}")
    return pairs


def _differ(where: str, expected: str, found: str) -> ScionError:
    return ScionError(
        "release and source were not asked the same",
        where=where,
        expected=expected,
        found=found,
        hint="run both stages of that evaluation again, with one configuration",
    )
