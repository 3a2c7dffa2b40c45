"""Every rule, by theme: a module each, a tuple `RULES` in each module.

F files and index, C config.json, N names and shapes, M the MTP head, Q the quantization scheme,
S scales and sizes, T tokenizer and templates, D what only the tensors' data shows.
"""

from scion.lint.rule import Rule
from scion.lint.rules import (
    cache,
    config_json,
    declarations,
    deep,
    engine_scales,
    files,
    foreign,
    layouts,
    mtp,
    names,
    numbers,
    scheme,
    sizes,
    tokenizer,
)

RULES: tuple[Rule, ...] = (
    *files.RULES,
    *config_json.RULES,
    *names.RULES,
    *layouts.RULES,
    *mtp.RULES,
    *scheme.RULES,
    *declarations.RULES,
    *cache.RULES,
    *foreign.RULES,
    *numbers.RULES,
    *sizes.RULES,
    *engine_scales.RULES,
    *tokenizer.RULES,
    *deep.RULES,
)
