"""A checkpoint's chat templates, and what they make of `scion.lint.conversations`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scion.lint.conversations import PLAIN, ROLES, TOOL_USE, TOOLS, Conversation
from scion.lint.subject import Subject
from scion.lint.tokenizer_files import TEMPLATE, TOKENIZER_CONFIG, tokenizer_files

DEFAULT = "default"
_FOR_TOOLS = "tool_use"


@dataclass(frozen=True)
class Template:
    """One template.

    Attributes:
        file: Where it stands.
        name: Its name, where there are several; `default` otherwise.
        text: The Jinja text.
    """

    file: str
    name: str
    text: str

    @property
    def subject(self) -> str | None:
        """What a finding names beside the file."""
        if self.file == TEMPLATE:
            return None
        return "chat_template" if self.name == DEFAULT else f"chat_template {self.name!r}"


@dataclass(frozen=True)
class Rendered:
    """What a template made of a conversation; see `scion.lint.chat_render.Rendering`."""

    template: Template
    conversation: Conversation
    text: str | None
    problem: str
    refused: bool
    compiled: bool


def templates(subject: Subject) -> dict[str, Template]:
    """The templates by name, as transformers finds them: the file goes before the configuration."""
    by_name = {
        name: Template(TOKENIZER_CONFIG, name, text)
        for name, text in configured(tokenizer_files(subject).config).items()
    }
    raw = subject.read(TEMPLATE)
    if raw is not None:
        # transformers drops the configuration's templates wherever there is a file.
        return {DEFAULT: Template(TEMPLATE, DEFAULT, raw.decode(errors="replace"))}
    return by_name


def configured(config: Mapping[str, Any]) -> dict[str, str]:
    """The templates of tokenizer_config.json: one text, or a list of named ones."""
    configured_templates = config.get("chat_template")
    if isinstance(configured_templates, str):
        return {DEFAULT: configured_templates}
    if isinstance(configured_templates, list):
        pairs = [
            (entry.get("name"), entry.get("template"))
            for entry in configured_templates
            if isinstance(entry, dict)
        ]
    else:
        pairs = list(configured_templates.items()) if isinstance(configured_templates, dict) else []
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


@lru_cache(maxsize=1)
def renderings(subject: Subject) -> tuple[Rendered, ...]:
    """Each conversation, rendered with the template that a server would take for it."""
    # Jinja takes a tenth of a second to import, which rules over files should not cost.
    from scion.lint.chat_render import Request, render_all

    by_name = templates(subject)
    default = by_name.get(DEFAULT)
    for_tools = by_name.get(_FOR_TOOLS, default)
    pairs = [
        (template, conversation)
        for template, conversations in ((default, PLAIN), (for_tools, TOOL_USE), (default, ROLES))
        if template is not None
        for conversation in conversations
    ]
    special = tokenizer_files(subject).special
    requests = [
        Request(
            template.text,
            conversation.messages,
            TOOLS if conversation.tools else None,
            {**special, "add_generation_prompt": conversation.prompted, **conversation.variables},
        )
        for template, conversation in pairs
    ]
    return tuple(
        Rendered(
            template,
            conversation,
            rendering.text,
            rendering.problem,
            rendering.refused,
            rendering.compiled,
        )
        # One that never ends is the last.
        for (template, conversation), rendering in zip(pairs, render_all(requests), strict=False)
    )
