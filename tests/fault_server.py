"""A proxy before a real server that breaks its answers as networks and servers do.

Everything passes as it is, but for what `change` says about a request's answer:

    with fault_server(server.url) as proxy:
        proxy.change = nth(2, to("/v1/completions", status(500)))
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Exchange:
    """A request with the real server's answer; `payload` is the request's JSON, or None."""

    path: str
    payload: Any
    status: int
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is sent instead. `missing` bytes are announced and never come."""

    status: int
    body: bytes
    missing: int = 0


Change = Callable[[Exchange], Answer | None]


@dataclass
class Proxy:
    """Its address, what it changes, and the requests that it has passed on."""

    url: str
    change: Change = lambda exchange: None
    seen: list[Exchange] = field(default_factory=list)

    def count(self, path: str) -> int:
        """How many requests went to `path`."""
        return sum(exchange.path == path for exchange in self.seen)


def to(path: str, change: Change, *, stream: bool | None = None) -> Change:
    """Only the answers of `path`; with `stream`, of requests that ask for a stream or do not."""

    def chosen(exchange: Exchange) -> Answer | None:
        streams = isinstance(exchange.payload, dict) and bool(exchange.payload.get("stream"))
        fits = exchange.path == path and stream in (None, streams)
        return change(exchange) if fits else None

    return chosen


def nth(number: int, change: Change) -> Change:
    """Only the answer that `change` would be applied to for the `number`-th time, from 1."""
    count = 0

    def counted(exchange: Exchange) -> Answer | None:
        nonlocal count
        answer = change(exchange)
        count += answer is not None
        return answer if count == number else None

    return counted


def status(code: int) -> Change:
    """An error of the server."""
    return lambda exchange: Answer(code, b'{"error": {"message": "injected"}}')


def truncated(*, announced: bool) -> Change:
    """Half of the body; `announced` says the whole length, so that the connection breaks."""

    def cut(exchange: Exchange) -> Answer:
        half = len(exchange.body) // 2
        rest = len(exchange.body) - half
        return Answer(exchange.status, exchange.body[:half], rest if announced else 0)

    return cut


def without_lines(text: str) -> Change:
    """The body without the lines that hold `text`."""

    def left(exchange: Exchange) -> Answer:
        lines = exchange.body.splitlines(keepends=True)
        return Answer(exchange.status, b"".join(x for x in lines if text.encode() not in x))

    return left


def edited(edit: Callable[[Any], object]) -> Change:
    """The JSON body after `edit` has changed it in place."""

    def apply(exchange: Exchange) -> Answer:
        value = json.loads(exchange.body)
        edit(value)
        return Answer(exchange.status, json.dumps(value).encode())

    return apply


@contextmanager
def fault_server(upstream: str) -> Generator[Proxy]:
    """Stand before the server at `upstream` while the block lasts, on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass(None)

        def do_POST(self) -> None:
            self._pass(self.rfile.read(int(self.headers["content-length"])))

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _pass(self, sent: bytes | None) -> None:
            exchange = _exchange(upstream, self.path, sent)
            proxy.seen.append(exchange)
            answer = proxy.change(exchange) or Answer(exchange.status, exchange.body)
            self.send_response(answer.status)
            self.send_header("content-length", str(len(answer.body) + answer.missing))
            self.end_headers()
            self.wfile.write(answer.body)
            self.close_connection = answer.missing > 0

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def _exchange(upstream: str, path: str, sent: bytes | None) -> Exchange:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(upstream + path, data=sent, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    payload = json.loads(sent) if sent else None
    try:
        with opener.open(request, timeout=300) as response:
            return Exchange(path, payload, response.status, response.read())
    except urllib.error.HTTPError as error:
        return Exchange(path, payload, error.code, error.read())
