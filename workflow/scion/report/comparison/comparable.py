"""What of a record can be the same in two runs: not the ids and times of answers.

Counts by prompt are compared in pairs, by `scion.report.comparison.paired`, and not as values.
"""

import json
from typing import Any


def answer_of(response: Any) -> Any:
    """What a chat completion says, choice by choice."""
    if isinstance(response, dict) and isinstance(response.get("choices"), list):
        return [_message_of(choice) for choice in response["choices"]]
    return response


def _message_of(choice: Any) -> Any:
    """Reasoning, text, tool calls and the reason to stop, of a chat completion's choice."""
    try:
        message = choice["message"]
        calls = [call["function"] for call in message["tool_calls"] or ()]
        parts = [message.get("reasoning"), message["content"], *calls, choice["finish_reason"]]
    except (LookupError, TypeError):
        return choice
    return json.dumps(parts, ensure_ascii=False)


def asked_of(replies: Any) -> Any:
    """Which prompts were asked, of counts by reply."""
    try:
        return sorted(f"{reply['prompt']}, {reply['thinking']}" for reply in replies)
    except (LookupError, TypeError):
        return replies
