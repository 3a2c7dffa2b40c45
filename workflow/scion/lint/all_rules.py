"""Every rule, by theme: a module each, a tuple `RULES` in each module.

F files and index, C config.json, N names and shapes, M the MTP head, Q the quantization scheme,
S scales and sizes, T tokenizer and templates, D what only the tensors' data shows.
"""

from scion.lint.rule import Rule
from scion.lint.rules import (
    config_json,
    declarations,
    deep,
    files,
    mtp,
    names,
    numbers,
    scheme,
    tokenizer,
)

RULES: tuple[Rule, ...] = (
    *files.RULES,
    *config_json.RULES,
    *names.RULES,
    *mtp.RULES,
    *scheme.RULES,
    *declarations.RULES,
    *numbers.RULES,
    *tokenizer.RULES,
    *deep.RULES,
)
