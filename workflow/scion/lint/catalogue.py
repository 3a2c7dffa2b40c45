"""The rules told to people: one explained, all listed, and the reference in docs/lint-rules.md."""

from collections.abc import Iterable, Iterator, Sequence

from scion.lint.rule import Rule

REFERENCE = "docs/lint-rules.md"
WRITE_REFERENCE = f"scion lint --list --format markdown --output {REFERENCE}"

_THEMES = {
    "F": "Files and index",
    "C": "config.json",
    "N": "Names and shapes",
    "M": "The MTP head",
    "Q": "The quantization scheme",
    "S": "Scales and sizes",
    "T": "Tokenizer and templates",
    "D": "What only the tensors' data shows",
}
_HEAD = f"""\
# Lint rules

What `scion lint` looks for. Generated from the rules by `{WRITE_REFERENCE}`.

An **error** means that the checkpoint does not load, or means something else than its author
thinks; a **warning** that it serves, but something is lost, ignored or fragile; a **note** is worth
knowing before it is served. A finding of severity error makes the command exit with 1.
"""


def listed(rules: Sequence[Rule]) -> str:
    """A line for each rule."""
    width = max(len(rule.name) for rule in rules)
    lines = [
        f"{rule.code}  {rule.severity:7}  {rule.name:{width}}  {rule.title}{_deep(rule)}\n"
        for rule in rules
    ]
    return "".join(lines)


def _deep(rule: Rule) -> str:
    return " (--deep)" if rule.deep else ""


def explained(rules: Iterable[Rule]) -> str:
    """All that is known of each rule."""
    return "\n\n".join("\n".join(_explanation(rule)) for rule in rules) + "\n"


def _explanation(rule: Rule) -> Iterator[str]:
    yield f"{rule.code} {rule.name} ({rule.severity}){_deep(rule)}"
    yield rule.title
    yield ""
    yield rule.explanation
    yield ""
    for name, values in facts(rule):
        for label, value in zip((f"{name}:", *([""] * len(values))), values, strict=False):
            yield f"{label:11} {value}"


def facts(rule: Rule) -> Iterator[tuple[str, Sequence[str]]]:
    """What else there is to say of a rule than its explanation: labels and values."""
    yield "holds for", [rule.holds_for or "whatever reads the checkpoint"]
    yield "repair", [rule.repair]
    if rule.command:
        yield "command", [rule.command]
    if rule.stage:
        yield "stage", [f"{rule.stage}, of Scion's workflow"]
    if rule.seen:
        yield "seen", rule.seen


def reference(rules: Sequence[Rule]) -> str:
    """The rules as a Markdown document, by theme."""
    parts = [_HEAD]
    for letter, theme in _THEMES.items():
        parts.append(f"## {letter}: {theme}\n")
        parts += [_section(rule) for rule in rules if rule.code.startswith(letter)]
    return "\n".join(parts)


def _section(rule: Rule) -> str:
    needs = "; runs with `--deep`" if rule.deep else ""
    return (
        f"### {rule.code} {rule.name}\n\n"
        f"**{rule.severity}**{needs}: {rule.title}.\n\n{markdown(rule)}"
    )


def markdown(rule: Rule) -> str:
    """Explanation and facts of a rule as Markdown, without its heading."""
    lines = [f"- {name}: {_value(name, values)}\n" for name, values in facts(rule)]
    return f"{rule.explanation}\n\n{''.join(lines)}"


def _value(name: str, values: Sequence[str]) -> str:
    if name == "seen":
        return ", ".join(f"<{value}>" if "://" in value else value for value in values)
    return f"`{values[0]}`" if name == "command" else values[0]
