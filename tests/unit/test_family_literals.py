"""A family is named by its row alone: no other module spells what the row says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from scion.checkpoint.config import Mtp

PACKAGE = Path(__file__).parents[2] / "workflow/scion"
ROWS = PACKAGE / "architectures/families.py"
# `model-mtp.safetensors` and `graft_mtp.json` are names of Scion's own, as are the configuration's
# `mtp.origin` and its like.
_KEYS = "|".join(Mtp.model_fields)
LITERAL = re.compile(rf"(?<![\w-])mtp\.(?!{_KEYS})|qwen3_5", re.IGNORECASE)
# What a statement about an engine's source links to.
LINK = re.compile(r"https://|^/models/\w+\.py$")


def texts(path: Path) -> Iterator[str]:
    """The string constants of a module, but for docstrings and links; its imports too."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield "" if id(node) in prose or LINK.search(node.value) else node.value


def test_no_other_module_names_a_family() -> None:
    places = {
        str(path.relative_to(PACKAGE)): text
        for path in PACKAGE.rglob("*.py")
        for text in texts(path)
        if path != ROWS and LITERAL.search(text)
    }
    assert places == {}


def test_the_rows_do() -> None:
    assert any(LITERAL.search(text) for text in texts(ROWS))
