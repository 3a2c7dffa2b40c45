"""For each rule, checkpoints that it must find fault with; each is a sound one, broken.

A module a theme, as in `scion.lint.rules`; `tests/unit/test_lint_rules.py` runs them all and fails
where a rule has none.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lint_checkpoints import Spelling, qwen35


@dataclass(frozen=True)
class Case:
    """One way to break a checkpoint.

    Attributes:
        rule: The code of the rule that must find it, and that is silent on the sound twin.
        break_it: Called with the folder of a sound checkpoint.
        about: A few words: the test's name.
        spelling: The sound checkpoint's number format.
        config: Its config.json.
        shards: Its number of files.
        engines: What `--engine` is given; empty: the default.
        tensor_parallel: What `--tensor-parallel` is given.
        subject: What the finding must name, if it matters.
    """

    rule: str
    break_it: Callable[[Path], object]
    about: str = ""
    spelling: Spelling = "bf16"
    config: dict[str, Any] = field(default_factory=qwen35)
    shards: int = 2
    engines: tuple[str, ...] = ()
    tensor_parallel: tuple[int, ...] = (1,)
    subject: str | None = None
