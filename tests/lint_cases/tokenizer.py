"""Tokenizers, chat templates and generation configs that don't fit the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lint_cases import Case
from lint_cases.files import edit_json
from lint_checkpoints import llama

CHATML = """
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# Offers tools, and puts a call's arguments together as if they were text.
TOOLS_AS_TEXT = (
    "{%- if tools %}{{ tools | tojson }}{% endif %}"
    "{%- for message in messages %}{% for call in message.tool_calls or [] %}"
    "{{- call.function.name + call.function.arguments }}{% endfor %}{% endfor %}"
) + CHATML
# Offers tools, and has no place for what they return.
NO_RESULTS = (
    "{%- if tools %}{{ tools | tojson }}{% endif %}"
    "{%- for message in messages if message.role != 'tool' %}{{ message | tojson }}{% endfor %}"
)
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = 1 %}{% endfor %}{% endfor %}"
)


def template(text: str) -> Callable[[Path], object]:
    """Replace the chat template."""
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def refusing(messages: str) -> str:
    """A template that refuses these messages, and takes all others."""
    refusal = f"{{%- if {messages} %}}{{{{ raise_exception('Unexpected role.') }}}}{{% endif %}}"
    return CHATML.replace("%}", "%}" + refusal, 1)


def remove(*names: str) -> Callable[[Path], object]:
    def break_it(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return break_it


def edit(name: str, **values: Any) -> Callable[[Path], object]:
    """Set keys of a JSON file."""
    return lambda folder: edit_json(folder / name, lambda content: content.update(values))


def add_token(folder: Path, number: int = 1024, name: str = "tokenizer.json") -> None:
    def add(content: dict[str, Any]) -> None:
        entry = {"id": number, "content": "<|new|>", "special": True}
        if name == "tokenizer.json":
            content["added_tokens"].append(entry)
        else:
            content["added_tokens_decoder"][str(number)] = entry

    edit_json(folder / name, add)


def shrink(folder: Path) -> None:
    """Keep the first half of the vocabulary."""

    def keep(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        content["model"]["vocab"] = {text: at for text, at in vocab.items() if at < 512}

    edit_json(folder / "tokenizer.json", keep)


def named_templates(folder: Path) -> None:
    """Templates by name in tokenizer_config.json, none of them the default."""
    (folder / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": CHATML}]
    edit("tokenizer_config.json", chat_template=named)(folder)


def template_of_a_processor(folder: Path) -> None:
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": text}))


def no_end(folder: Path) -> None:
    """Take every end token away."""
    for name in ("generation_config.json", "tokenizer_config.json", "config.json"):
        edit_json(
            folder / name,
            lambda content: [content.pop(key, None) for key in ("eos_token_id", "eos_token")],
        )
    edit_json(folder / "config.json", lambda config: config["text_config"].pop("eos_token_id", 0))


def end_at(*numbers: int) -> Callable[[Path], object]:
    return edit("generation_config.json", eos_token_id=list(numbers))


def end_of_text_only(folder: Path) -> None:
    """Let generation end at <|endoftext|> alone, while turns end with <|im_end|>."""
    end_at(0)(folder)
    edit("tokenizer_config.json", eos_token="<|endoftext|>")(folder)


GENERATION = "generation_config.json"
CASES = [
    Case("T601", remove("tokenizer.json")),
    Case("T602", lambda folder: (folder / "tokenizer.json").write_text("{}"), "no vocabulary"),
    Case("T602", lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "no object"),
    Case("T603", remove("tokenizer_config.json")),
    Case("T604", add_token, "added", subject="<|new|>"),
    Case("T604", add_token, "a plain decoder", config=llama(), subject="<|new|>"),
    Case(
        "T604",
        lambda folder: add_token(folder, name="tokenizer_config.json"),
        "declared",
        subject="<|new|>",
    ),
    Case("T605", shrink),
    Case("T606", lambda folder: add_token(folder, 20), "with the vocabulary", subject="20"),
    Case(
        "T606",
        lambda folder: add_token(folder, 2, "tokenizer_config.json"),
        "with tokenizer_config.json",
        subject="2",
    ),
    Case("T607", edit("tokenizer_config.json", eos_token="<|end|>"), subject="eos_token"),
    Case("T609", template(refusing("message.role == 'developer'")), "developer refused"),
    Case(
        "T609",
        template(refusing("message.role == 'system' and not loop.first")),
        "late system refused",
    ),
    Case("T609", template(refusing("message.role == 'system'")), "no system"),
    Case(
        "T609",
        template(CHATML.replace("in messages", "in messages if message.role != 'developer'")),
        "developer dropped",
    ),
    Case("T611", remove("chat_template.jinja")),
    Case("T611", named_templates, "no default"),
    Case("T611", template_of_a_processor, "a processor's only"),
    Case("T612", edit("tokenizer_config.json", chat_template=CHATML)),
    Case("T613", template("{% for message in messages %}")),
    Case("T614", template("{{ messages[0].role.nothing.more }}"), "undefined"),
    Case("T614", template("{{ raise_exception('No.') }}"), "refused"),
    Case("T614", template(ENDLESS), "endless"),
    Case("T614", template("{{ 'a' * 10 ** 10 }}"), "boundless"),
    Case("T615", template("{% for m in messages %}{{ m.role }}{% endfor %}")),
    Case("T616", template(CHATML.replace("if add_generation_prompt", "if false"))),
    Case("T617", template(CHATML), "no tools"),
    Case(
        "T617", template("{% if tools %}{{ raise_exception('') }}{% endif %}" + CHATML), "refused"
    ),
    Case("T618", template(TOOLS_AS_TEXT), "arguments as text"),
    Case("T618", template(NO_RESULTS), "no results"),
    Case("T619", end_of_text_only, subject="<|im_end|>"),
    Case("T621", remove(GENERATION)),
    Case("T622", lambda folder: (folder / GENERATION).write_text("[]")),
    Case("T623", no_end),
    Case("T624", end_at(2, 99999)),
    Case("T625", end_at(0), "another"),
    Case(
        "T625",
        lambda folder: edit_json(folder / GENERATION, lambda content: content.pop("eos_token_id")),
        "none",
    ),
    Case("T626", edit(GENERATION, temperature=0.6)),
    Case(
        "T608",
        lambda folder: edit_json(
            folder / "tokenizer_config.json",
            lambda config: config.update(tokenizer_class="TokenizersBackend"),
        ),
        engines=("vllm==0.19.1",),
    ),
]
