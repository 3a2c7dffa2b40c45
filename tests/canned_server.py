"""A server of OpenAI's interface whose answers a test chooses, for what a real model never says.

It stands for the model alone: harnesses, drivers and stages are the real ones.
"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

CONTEXT = 2048
Reply = tuple[int, Any]


@dataclass
class Canned:
    """What a test sets, and what was asked.

    Attributes:
        reply: Status and body of an answer to a request's body; None cuts the connection.
        tokens: How many tokens the prompt of a request has.
        context: What /v1/models says of the context.
        requests: The bodies of all requests to /v1/chat/completions.
    """

    url: str
    reply: Callable[[dict[str, Any]], Reply | None] = lambda body: (200, message("Good."))
    tokens: Callable[[dict[str, Any]], int] = lambda body: 10
    context: int | None = CONTEXT
    requests: list[dict[str, Any]] = field(default_factory=list)


def message(content: str | None, *, reason: str = "stop", **parts: Any) -> dict[str, Any]:
    """A chat completion; `parts` go into the message."""
    reply = {"role": "assistant", "content": content, **parts}
    choice = {"index": 0, "finish_reason": reason, "message": reply}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    about = {"id": "1", "object": "chat.completion", "created": 0, "model": "release"}
    return {**about, "choices": [choice], "usage": usage}


def calls(*tool_calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A chat completion with tool calls, each a name and its arguments."""
    listed = [
        {
            "id": f"call-{at}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for at, (name, arguments) in enumerate(tool_calls)
    ]
    return message(None, reason="tool_calls", tool_calls=listed)


@contextmanager
def canned_server() -> Generator[Canned]:
    """Run such a server while the block lasts."""
    canned = Canned("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = {"data": [{"id": "release", "max_model_len": canned.context}]}
            answers = {"/health": {}, "/v1/models": models, "/version": {"version": "0.0"}}
            self._send(200, answers[self.path])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/tokenize":
                count = canned.tokens(body)
                self._send(200, {"count": count, "tokens": [0] * count, "max_model_len": CONTEXT})
                return
            canned.requests.append(body)
            reply = canned.reply(body)
            if reply is not None:
                self._send(*reply)

        def _send(self, status: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    canned.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield canned
    finally:
        server.shutdown()
        server.server_close()
