"""A rule over chat templates: which roles of messages they take."""

from collections.abc import Iterable

from scion.lint.conversations import ASKED, INSTRUCTED, ROLES
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject
from scion.lint.templates import Rendered, renderings


@rule(
    "T609",
    "chat-template-refuses-roles",
    Severity.NOTE,
    "the chat template refuses or drops messages that clients of agents send",
    repair="let the clients send one `system` message, and that first; or give the template a "
    "branch that writes the role as the model learnt to read `system`",
    seen=("https://github.com/vllm-project/vllm/issues/42407",),
)
def chat_template_refuses_roles(subject: Subject) -> Iterable[Finding]:
    """Requests with these messages end in an error, or the model never sees what they say.

    Codex and others put their instructions into a `developer` message, and some add a `system`
    message in the middle of a conversation. A model may be made for neither, and its template is
    sound then; whoever serves it to agents has to know. vLLM hands the role to the template as it
    is; SGLang calls a `developer` message `system` first. A template that takes no `system` message
    at all is told of with that one.
    """
    made = {rendering.conversation: rendering for rendering in renderings(subject)}
    if ASKED not in made or made[ASKED].text is None:
        return
    no_system = INSTRUCTED in made and made[INSTRUCTED].refused
    for conversation in (INSTRUCTED,) if no_system else ROLES:
        found = _loss(made[conversation]) if conversation in made else None
        if found is not None:
            template = made[conversation].template
            expected = f"a prompt for {conversation.name}"
            yield Finding(template.file, template.subject, expected, found)


def _loss(rendering: Rendered) -> str | None:
    """What goes wrong with a conversation, if anything does."""
    if rendering.text is None:
        return f"refused: {rendering.problem}" if rendering.refused else rendering.problem
    lost = [text for text in rendering.conversation.shown if text not in rendering.text]
    return f"{lost[0]!r} is not in the prompt" if lost else None


RULES = (chat_template_refuses_roles,)
