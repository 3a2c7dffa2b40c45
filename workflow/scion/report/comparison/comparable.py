"""What of a record can be the same in two runs: no free port, nor the ids and times of answers."""

import json
from typing import Any


def command_without_port(command: Any) -> Any:
    """A server's command line, less the port, which is a free one each time."""
    if isinstance(command, list) and "--port" in command:
        place = command.index("--port")
        return command[:place] + command[place + 2 :]
    return command


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
