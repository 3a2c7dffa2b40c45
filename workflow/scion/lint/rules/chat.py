"""Rules over chat templates: whether conversations, tools and results reach the model."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from scion.lint.conversations import (
    ANSWER,
    ANSWERED,
    ASKED,
    OFFERED,
    PLAIN,
    TOOL,
    TOOL_USE,
    UNPROMPTED,
)
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject
from scion.lint.templates import DEFAULT, Rendered, Template, configured, renderings, templates
from scion.lint.tokenizer_files import TEMPLATE, TOKENIZER_CONFIG, end_tokens, tokenizer_files

_PROCESSOR_TEMPLATE = "chat_template.json"
_TAKE_THE_BASE_MODEL_S = "take the template of the model that this one was made from"


@rule(
    "T611",
    "chat-template-missing",
    Severity.WARNING,
    "there is no chat template",
    repair=f"{_TAKE_THE_BASE_MODEL_S}, as {TEMPLATE}",
    seen=(
        "https://github.com/vllm-project/vllm/issues/39279",
        "https://github.com/QwenLM/Qwen3-Omni/issues/105",
        "https://github.com/ai-dynamo/dynamo/issues/10391",
    ),
)
def chat_template_missing(subject: Subject) -> Iterable[Finding]:
    """Servers answer chat requests with an error; plain completions work.

    transformers has had no default template since 4.44. It reads chat_template.jinja, or
    `chat_template` in tokenizer_config.json: one text, or several of which one is named `default`.
    A chat_template.json belongs to the processor of a multimodal model; vLLM does not use that one
    where tools are offered. A base model that nobody chats with needs none.
    """
    named_templates = templates(subject)
    if DEFAULT not in named_templates:
        found = f"only {', '.join(sorted(named_templates))}" if named_templates else "none"
        if not named_templates and _PROCESSOR_TEMPLATE in subject.source.files:
            found = f"only {_PROCESSOR_TEMPLATE}, which is not used for requests with tools"
        expected = f"{TEMPLATE}, or `chat_template` in {TOKENIZER_CONFIG}"
        yield Finding(TEMPLATE, None, expected, found)


@rule(
    "T612",
    "two-chat-templates",
    Severity.WARNING,
    "chat_template.jinja and tokenizer_config.json have different templates",
    repair="keep the right one in chat_template.jinja, and remove the other",
    seen=("https://github.com/modelscope/ms-swift/issues/4358",),
)
def two_chat_templates(subject: Subject) -> Iterable[Finding]:
    """The one that counts depends on what reads the checkpoint.

    transformers and the engines that call it take chat_template.jinja and never look at the other;
    old releases of transformers, and tools with readers of their own, know tokenizer_config.json
    only. Mostly one was repaired and the other forgotten.
    """
    file = templates(subject).get(DEFAULT)
    other = configured(tokenizer_files(subject).config).get(DEFAULT)
    if file is not None and other is not None and file.text.strip() != other.strip():
        expected = f"the template of {TEMPLATE}"
        found = f"another one, of {len(other)} characters"
        yield Finding(TOKENIZER_CONFIG, "chat_template", expected, found)


@rule(
    "T613",
    "chat-template-invalid",
    Severity.ERROR,
    "the chat template does not compile",
    repair=f"correct its syntax, or {_TAKE_THE_BASE_MODEL_S}",
)
def chat_template_invalid(subject: Subject) -> Iterable[Finding]:
    """Jinja refuses the text, so every chat request ends in an error.

    Engines start nevertheless: the template is compiled when the first request comes.
    """
    problems = {
        rendering.template: rendering.problem
        for rendering in renderings(subject)
        if not rendering.compiled
    }
    for template, problem in problems.items():
        yield Finding(template.file, template.subject, "a Jinja template", problem)


@rule(
    "T614",
    "chat-template-fails",
    Severity.ERROR,
    "the chat template fails on a plain conversation",
    repair=f"correct it, or {_TAKE_THE_BASE_MODEL_S}",
    seen=("https://github.com/QwenLM/Qwen3/issues/1831",),
)
def chat_template_fails(subject: Subject) -> Iterable[Finding]:
    """Requests like these end in an error, while others may work.

    The template was rendered as transformers and vLLM render it: in Jinja's sandbox, with
    `trim_blocks`, `lstrip_blocks`, loop controls, `raise_exception` and `strftime_now`. It may take
    seconds and half a gigabyte, where others take milliseconds; a request that never ends keeps a
    server's thread. A template may refuse a system message: some models have none.
    """
    yield from _failures(
        rendering for rendering in renderings(subject) if rendering.conversation in PLAIN
    )


@rule(
    "T615",
    "chat-template-loses-text",
    Severity.ERROR,
    "the chat template leaves a message out of the prompt",
    repair=f"correct it, or {_TAKE_THE_BASE_MODEL_S}",
)
def chat_template_loses_text(subject: Subject) -> Iterable[Finding]:
    """What a user, a system message or an earlier answer said does not reach the model.

    Nothing fails: the model answers something else. It happens where a template expects `content`
    as a list of parts and gets a text, or the other way round, or looks for roles by other names.
    """
    yield from _losses(
        rendering for rendering in renderings(subject) if rendering.conversation in PLAIN
    )


@rule(
    "T616",
    "generation-prompt-missing",
    Severity.WARNING,
    "the prompt does not open the assistant's turn",
    repair="end the template with `{% if add_generation_prompt %}` and the beginning of a turn",
)
def generation_prompt_missing(subject: Subject) -> Iterable[Finding]:
    """The model has to write the beginning of its own turn, and may continue the user's instead.

    Servers set `add_generation_prompt`, and this template makes the same of a question with and
    without it, though before an earlier answer it writes a header.
    """
    made = {
        rendered.conversation: rendered
        for rendered in renderings(subject)
        if rendered.text is not None
    }
    if not made.keys() >= {ASKED, UNPROMPTED, ANSWERED}:
        return
    asked, plain, answered = (
        made[conversation].text or "" for conversation in (ASKED, UNPROMPTED, ANSWERED)
    )
    header = answered.removeprefix(plain).partition(ANSWER)[0]
    if asked == plain and answered.startswith(plain) and header.strip():
        template = made[ASKED].template
        found = f"it ends with {asked[-40:]!r}"
        yield Finding(template.file, template.subject, f"a prompt that ends with {header!r}", found)


@rule(
    "T617",
    "chat-template-ignores-tools",
    Severity.WARNING,
    "the chat template does not show the model the tools that a request offers",
    repair="take a template with tools from the base model, or one of the engine's examples",
    seen=("https://github.com/deepseek-ai/DeepSeek-V3/issues/737",),
)
def chat_template_ignores_tools(subject: Subject) -> Iterable[Finding]:
    """Agents get answers without a single tool call, and no error.

    A model without tool use needs no such template. Quantizing or fine-tuning one that has it must
    not lose it on the way.
    """
    for rendering in _tool_use(subject):
        if rendering.conversation is OFFERED and _ignored(rendering):
            found = f"refused: {rendering.problem}" if rendering.refused else "nothing of the tool"
            expected = f"{TOOL!r} in the prompt"
            yield Finding(rendering.template.file, rendering.template.subject, expected, found)


@rule(
    "T618",
    "chat-template-breaks-tools",
    Severity.ERROR,
    "the chat template offers tools, but loses or refuses their calls or results",
    repair=f"correct it, or {_TAKE_THE_BASE_MODEL_S}",
    seen=(
        "https://github.com/QwenLM/Qwen3/issues/1894",
        "https://github.com/QwenLM/Qwen3/issues/1831",
    ),
)
def chat_template_breaks_tools(subject: Subject) -> Iterable[Finding]:
    """The first call works; the request that brings back its result fails, or does not show it.

    vLLM hands a call's arguments to the template as an object, and an assistant's message without
    text as an empty one, which templates that put strings together stumble over. Where the name,
    the arguments or the result are not in the prompt, the model calls the same tool again, and
    again.
    """
    made = _tool_use(subject)
    if not any(rendered.conversation is OFFERED and _ignored(rendered) for rendered in made):
        yield from _failures(made)
        yield from _losses(made)


def _tool_use(subject: Subject) -> list[Rendered]:
    """The renderings with tools, unless not even a question can be rendered without any."""
    made = renderings(subject)
    if any(rendered.conversation is ASKED and rendered.text is None for rendered in made):
        return []
    return [rendered for rendered in made if rendered.conversation in TOOL_USE]


def _ignored(rendering: Rendered) -> bool:
    return rendering.refused or (rendering.text is not None and TOOL not in rendering.text)


def _failures(rendered: Iterable[Rendered]) -> Iterator[Finding]:
    conversations: dict[tuple[Template, str], list[str]] = defaultdict(list)
    for rendering in rendered:
        allowed = rendering.refused and rendering.conversation.refusable
        if rendering.text is None and rendering.compiled and not allowed:
            found = f"refused: {rendering.problem}" if rendering.refused else rendering.problem
            conversations[rendering.template, found].append(rendering.conversation.name)
    for (template, found), names in conversations.items():
        expected = f"a prompt for {names[0]}"
        yield Finding(template.file, template.subject, expected, found, (), len(names))


def _losses(rendered: Iterable[Rendered]) -> Iterator[Finding]:
    conversations: dict[tuple[Template, str], list[str]] = defaultdict(list)
    for rendering in rendered:
        for text in rendering.conversation.shown if rendering.text is not None else ():
            if text not in (rendering.text or ""):
                conversations[rendering.template, text].append(rendering.conversation.name)
    for (template, text), names in conversations.items():
        expected = f"{text!r} in the prompt for {names[0]}"
        yield Finding(template.file, template.subject, expected, "not in it", (), len(names))


@rule(
    "T619",
    "turn-end-not-an-end-token",
    Severity.WARNING,
    "the token that ends an assistant's turn does not end generation",
    repair="add its id to eos_token_id in generation_config.json",
    seen=(
        "https://github.com/vllm-project/vllm/issues/4180",
        "https://github.com/Blaizzy/mlx-vlm/pull/2112",
    ),
)
def turn_end_not_an_end_token(subject: Subject) -> Iterable[Finding]:
    """The model closes its turn, and the server goes on: it writes the user's next turn itself.

    After an assistant's answer the template writes a special token, which the model has learnt to
    write there. Servers stop at the `eos_token` of the tokenizer and at `eos_token_id` in
    generation_config.json (SGLang also at that of config.json), and it is none of these. The few
    models that end their last turn with another token than earlier ones are meant so.
    """
    files = tokenizer_files(subject)
    ends = {number for numbers in end_tokens(subject).values() for number in numbers}
    for rendering in renderings(subject):
        if rendering.conversation is not ANSWERED or rendering.text is None or not ends:
            continue
        rest = rendering.text.rpartition(ANSWER)[2]
        closing = min((text for text in files.added if text in rest), key=rest.index, default=None)
        number = None if closing is None else files.id_of(closing)
        if number is not None and number not in ends:
            found = f"generation ends at {', '.join(map(str, sorted(ends)))}"
            yield Finding(rendering.template.file, closing, f"{number} as an end token", found)


RULES = (
    chat_template_missing,
    two_chat_templates,
    chat_template_invalid,
    chat_template_fails,
    chat_template_loses_text,
    generation_prompt_missing,
    chat_template_ignores_tools,
    chat_template_breaks_tools,
    turn_end_not_an_end_token,
)
