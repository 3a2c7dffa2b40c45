"""Renders chat templates as transformers and vLLM do; a program of its own, for they are code.

    python -I chat_render.py SECONDS < request.json > renderings.jsonl

A template comes with the checkpoint, from anyone. Jinja's sandbox keeps it from Python, but not
from running forever or filling the memory, and Python can't stop a thread. So `render_all` starts
this file as a process with limits of time and memory, and reads what it got done until then. It
imports nothing of Scion: isolated as it is (-I), it sees no PYTHONPATH.
"""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

# Real templates render in a few milliseconds, to a few kilobytes.
SECONDS = 5
"""Of processor time, so that a busy machine is no fault of the template."""
_WALL_FACTOR = 12
MAX_CHARACTERS = 1 << 20
"""Of a prompt, beyond twice those of the conversation in it."""
_MAX_BYTES_OF_MEMORY = 1 << 29


@dataclass(frozen=True)
class Request:
    """One rendering that is asked for.

    Attributes:
        template: The template's text.
        messages: The conversation; tool calls have their arguments as objects, as vLLM hands them
            to the template.
        tools: The tools offered, if any.
        variables: What else the template sees: special tokens, `add_generation_prompt`, the
            arguments of the request.
    """

    template: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Rendering:
    """What came of a request.

    Attributes:
        text: The prompt; None where there is none.
        problem: Why there is none.
        refused: Whether the template itself said so, by `raise_exception`.
        compiled: Whether the template is one at all.
    """

    text: str | None = None
    problem: str = ""
    refused: bool = False
    compiled: bool = True


class _RefusedError(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _Generation(jinja2.ext.Extension):
    """Lets `{% generation %}…{% endgeneration %}` stand around what an assistant wrote."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block as transformers makes it: what is set inside is not seen outside.
        call = self.call_method("_written")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _written(self, caller: Callable[[], str]) -> str:
        return caller()


def environment() -> jinja2.Environment:
    """Jinja as `transformers.utils.chat_template_utils` sets it up, which vLLM calls."""
    jinja_environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    jinja_environment.filters["tojson"] = _tojson
    functions: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now}
    jinja_environment.globals.update(functions)
    return jinja_environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes what HTML would take for its own.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: object) -> None:
    raise _RefusedError(str(message))


@cache
def _compiled(template: str) -> jinja2.Template:
    # Dozens of times what a rendering takes. What a template sets ends with its rendering.
    return environment().from_string(template)


def render(request: Request) -> Rendering:
    """Render one request in this process, without a limit of time."""
    try:
        template = _compiled(request.template)
    # The compiler raises what Python raises over the code that it made, such as a SyntaxError.
    except Exception as error:
        return Rendering(problem=_told(error), compiled=False)
    try:
        pieces = template.generate(
            messages=request.messages, tools=request.tools, documents=None, **request.variables
        )
        return Rendering("".join(_bounded(pieces, request)))
    except _RefusedError as error:
        return Rendering(problem=str(error)[:300], refused=True)
    # Whatever the template's expressions can raise: any exception at all.
    except Exception as error:
        return Rendering(problem=_told(error))


def _bounded(pieces: Iterable[str], request: Request) -> Iterator[str]:
    # A prompt holds its conversation, however long that is.
    most = MAX_CHARACTERS + 2 * len(json.dumps([request.messages, request.tools]))
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > most:
            raise OverflowError(f"more than {most} characters")
        yield piece


def _told(error: Exception) -> str:
    line = getattr(error, "lineno", None)
    where = f" (line {line} of the template)" if line else ""
    return f"{type(error).__name__}: {error}"[:300] + where


def render_all(requests: Sequence[Request], *, seconds: int = SECONDS) -> list[Rendering]:
    """Render in a process that may compute for `seconds` in all; the one that outlasts them failed.

    Those after it were not rendered, and are not in the list.
    """
    if not requests:
        return []
    text = json.dumps([asdict(request) for request in requests])
    command, wall = [sys.executable, "-I", __file__, str(seconds)], _WALL_FACTOR * seconds
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=wall, check=False
        )
        output, last_words = done.stdout, done.stderr.decode(errors="replace").strip()
        ended = f"its process died (exit code {done.returncode}) {last_words[-200:]}".rstrip()
        if done.returncode == -signal.SIGXCPU:
            ended = f"no end after {seconds} seconds"
    except subprocess.TimeoutExpired as stopped:
        output, ended = stopped.stdout or b"", f"no end after {wall} seconds"
    # A line that is cut short has no line feed.
    lines = output.split(b"\n")[:-1]
    renderings = [Rendering(**json.loads(line)) for line in lines]
    if len(renderings) < len(requests):
        renderings.append(Rendering(problem=ended))
    return renderings


def main() -> None:
    """Render the requests of standard input, one line of JSON each; the argument is the limit."""
    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES_OF_MEMORY, _MAX_BYTES_OF_MEMORY))
    # The soft limit ends the process by SIGXCPU, which nothing here catches.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    for entry in json.load(sys.stdin):
        sys.stdout.write(json.dumps(asdict(render(Request(**entry)))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
