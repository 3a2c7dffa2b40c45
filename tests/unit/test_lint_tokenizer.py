import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from lint_cases.files import edit_json
from lint_cases.tokenizer import CHATML, ENDLESS, NO_RESULTS, edit, template
from lint_checkpoints import PICO, qwen35, sound
from scion.checkpoint.folder_source import FolderSource, open_source
from scion.checkpoint.source import Source
from scion.engines.registry.engines import DEFAULT_ENGINES
from scion.lint.chat_render import Request, render, render_all
from scion.lint.conversations import (
    ANSWER,
    PLAIN,
    QUESTION,
    ROLES,
    SYSTEM,
    TOOL_USE,
    TOOLS,
    Conversation,
)
from scion.lint.rule import Result, Severity, run
from scion.lint.rules.tokenizer import RULES
from scion.lint.subject import Subject
from scion.lint.tokenizer_files import tokenizer_files

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
# In the manner of Llama 2: no system role, and nothing to open an assistant's turn with.
INSTRUCT = """{{ bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}{{ raise_exception('No system role.') }}{% endif %}
{%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}
{%- else %}{{- ' ' + message.content + eos_token }}{% endif %}
{%- endfor %}"""
# One call at a time, as Llama 3.1's.
ONE_CALL = """{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for message in messages %}
{%- if message.tool_calls and message.tool_calls | length != 1 %}
{{- raise_exception('One tool call at a time.') }}{% endif %}
{{- '<|im_start|>' + message.role + (message | tojson) + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"""
# What Jinja does only with the extensions and settings of chat templates.
UNUSUAL = """{% set seen = namespace(users=0) %}
{% for message in messages %}
    {% if message.role == 'tool' %}{% continue %}{% endif %}
    {% if loop.index > 4 %}{% break %}{% endif %}
    {% generation %}{% set inner = 1 %}{{ message.content }}<a & 'b'>{% endgeneration %}
    {{ inner is defined }} {{ strftime_now('%Y') }} {{ {'ü<': message.content} | tojson }}
{% endfor %}
{{ unknown.attribute if unknown else documents }}
"""
TEMPLATES = {
    "pico": (PICO / "chat_template.jinja").read_text(),
    "chatml": CHATML,
    "instruct": INSTRUCT,
    "one call": ONE_CALL,
    "no results": NO_RESULTS,
    "unusual": UNUSUAL,
}


def request(text: str, asked: Conversation) -> Request:
    variables = {**SPECIAL, "add_generation_prompt": asked.prompted, **asked.variables}
    return Request(text, asked.messages, TOOLS if asked.tools else None, variables)


def results(source: Source | Path) -> list[Result]:
    opened = open_source(str(source)) if isinstance(source, Path) else source
    return run(Subject.open(opened, engines=DEFAULT_ENGINES), RULES)


def codes(source: Source | Path) -> set[str]:
    """What is wrong; notes are not."""
    found = (result.rule for result in results(source))
    return {rule.code for rule in found if rule.severity is not Severity.NOTE}


def codes_with(folder: Path, *changes: Callable[[Path], object]) -> set[str]:
    """What is found with a sound checkpoint after changes."""
    sound(folder)
    for change in changes:
        change(folder)
    return codes(folder)


@pytest.mark.parametrize("asked", [*PLAIN, *TOOL_USE, *ROLES], ids=lambda asked: asked.name)
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_transformers_renders_them(name: str, asked: Conversation) -> None:
    made = render(request(TEMPLATES[name], asked))
    text, problem = by_transformers(TEMPLATES[name], asked)
    assert made.text == text
    assert problem in made.problem


def by_transformers(text: str, asked: Conversation) -> tuple[str | None, str]:
    """The prompt, or what was raised."""
    messages: Any = [asked.messages]
    tools: Any = list(TOOLS) if asked.tools else None
    try:
        (made,), _ = render_jinja_template(
            messages, tools, chat_template=text, **request("", asked).variables
        )
    except Exception as error:
        return None, str(error)
    return made, ""


@pytest.mark.parametrize("name", ["pico-base", "pico-agent"])
def test_the_embedded_checkpoints_are_sound(name: str) -> None:
    assert codes(PICO.parent / name) == set()


def test_the_pico_template_takes_one_system_message_and_that_first() -> None:
    found = {result.finding.expected: result.finding.found for result in results(PICO)}
    assert found == {
        "a prompt for a developer message and a question": f"{SYSTEM!r} is not in the prompt",
        "a prompt for a system message after an answer": (
            "refused: A system message can only come first."
        ),
    }


def test_a_template_without_system_messages_is_told_of_once(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    template(INSTRUCT)(folder)
    (found,) = [result.finding for result in results(folder) if result.rule.code == "T609"]
    assert found.expected == "a prompt for a system message and a question"


@pytest.mark.parametrize("text", [INSTRUCT, ONE_CALL])
def test_a_template_may_have_limits_and_say_so(text: str, tmp_path: Path) -> None:
    found = codes_with(tmp_path / "model", template(text))
    assert found <= {"T617"}


def test_an_endless_template_is_stopped_and_what_was_rendered_is_kept() -> None:
    asked = request(CHATML, PLAIN[0])
    begun = time.monotonic()
    first, second = render_all([asked, request(ENDLESS, PLAIN[0]), asked], seconds=2)
    assert time.monotonic() - begun < 10
    assert QUESTION in (first.text or "")
    assert second.problem == "no end after 2 seconds"


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'some text' * 9 }}{% for b in range(9) %}{{ a }}{% endfor %}"
        "{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% include 'x' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_hostile_template_is_a_problem_of_its_own(text: str) -> None:
    bad, good = render_all([request(text, PLAIN[0]), request(CHATML, PLAIN[0])])
    assert bad.text is None
    assert bad.problem
    assert QUESTION in (good.text or "")


def test_no_template_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere")
    assert render_all([]) == []


@pytest.mark.parametrize(
    "named",
    [
        [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": ONE_CALL}],
        {"default": CHATML, "tool_use": ONE_CALL},
    ],
)
def test_the_template_for_tools_is_rendered_with_tools(named: object, tmp_path: Path) -> None:
    changes = (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        edit("tokenizer_config.json", chat_template=named),
    )
    assert codes_with(tmp_path / "model", *changes) == set()


class WithoutTokenizer(FolderSource):
    """As a hub, where tokenizer.json would be too much to fetch."""

    def read(self, name: str) -> bytes | None:
        return None if name == "tokenizer.json" else super().read(name)


def test_without_tokenizer_json_the_added_tokens_are_judged(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model")
    assert codes(WithoutTokenizer(folder)) == set()

    def declare(config: dict[str, Any]) -> None:
        config["added_tokens_decoder"]["1024"] = {"content": "<|new|>"}

    edit_json(folder / "tokenizer_config.json", declare)
    assert codes(WithoutTokenizer(folder)) == {"T604"}


def test_padded_rows_are_no_fault(tmp_path: Path) -> None:
    folder = sound(tmp_path / "model", config=qwen35(vocab_size=1088))
    assert codes(folder) == set()


def vocabulary(folder: Path, model: Mapping[str, Any], added: Sequence[tuple[int, str]] = ()):
    """What is read from a tokenizer.json of this model."""
    sound(folder)
    entries = [{"id": number, "content": text} for number, text in added]
    content = {"added_tokens": entries, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=2))
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    return tokenizer_files(subject).vocabulary


@pytest.mark.parametrize("merges", [[], ["a b", 'a "'], [["a", "b"], ["\\", '"]'], ["[", "{"]]])
def test_merges_do_not_matter(merges: list[Any], tmp_path: Path) -> None:
    vocab = {"a": 0, '"merges": [': 1, "merges": 2, "b": 3}
    model = {"vocab": vocab, "merges": merges}
    read = vocabulary(tmp_path / "model", model, [(4, "<|end|>"), (3, "b")])
    assert read is not None
    assert (read.size, read.highest) == (5, ("<|end|>", 4))
    assert read.ids == {"<|end|>": 4, "b": 3}
    assert read.clashes == {}


def test_a_unigram_vocabulary_is_a_list(tmp_path: Path) -> None:
    read = vocabulary(tmp_path / "model", {"type": "Unigram", "vocab": [["<s>", 0.0], ["a", -1.5]]})
    assert read is not None
    assert (read.size, read.highest) == (2, ("a", 1))


@pytest.mark.parametrize("content", ["", "null", "[]", '{"model": {"vocab": 7}}', "{"])
def test_an_unusable_tokenizer_is_told(content: str, tmp_path: Path) -> None:
    found = codes_with(
        tmp_path / "model", lambda folder: (folder / "tokenizer.json").write_text(content)
    )
    assert found == {"T602"}


def test_a_turn_that_ends_in_text_is_not_judged(tmp_path: Path) -> None:
    text = CHATML.replace("<|im_end|>", "END")
    assert ANSWER in (render(request(text, PLAIN[2])).text or "")
    assert "T619" not in codes_with(tmp_path / "model", template(text))
