"""What a source file means: its syntax tree, less what Python runs nothing of.

Neither comments and layout count, nor

- docstrings, nor any other statement that is a string alone. `__doc__` then is read for help and
  for explanations, never for what an artifact holds;
- annotations of parameters, of returns, and of variables outside of class bodies: `x: int = 3`
  counts as `x = 3`, and `x: int` as nothing;
- what stands below `if TYPE_CHECKING:`; its `else` does.

Annotations in class bodies count, for dataclasses, named tuples and pydantic's models are made from
them. So does all else, the order of statements and of keys, names, messages of errors, imports that
are of use to annotations alone: that a digest is equal says that the same code runs, not the
reverse.

The text that `written` makes of a source is the same in Python 3.11, 3.12 and 3.13, which
`ast.dump` does not promise: it leaves out fields that are empty, to which newer ones add, and how
an f-string's text is cut into pieces.
"""

import ast
from collections.abc import Iterator
from typing import cast

# The fields of a statement, or of a part of one, that hold statements or such parts.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def meaningful(text: bytes) -> ast.Module:
    """The syntax tree of a source file, less what does not count."""
    tree = ast.parse(text)
    tree.body = _kept(tree.body, in_class=False)
    return tree


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements of a tree at any depth, and what holds some: handlers, cases."""
    for block in _BLOCKS:
        for statement in getattr(tree, block, ()):
            yield statement
            yield from statements(statement)


def written(tree: ast.AST) -> str:
    """A tree as text, without the places in the file."""
    pieces: list[str] = []
    _write(tree, pieces)
    return "".join(pieces)


def _kept(block: list[ast.stmt], *, in_class: bool) -> list[ast.stmt]:
    return [kept for statement in block for kept in _counted(statement, in_class)]


def _counted(statement: ast.stmt, in_class: bool) -> list[ast.stmt]:
    """What a statement counts as; its own blocks are changed in place."""
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return []
        case ast.AnnAssign(target=target, value=value) if not in_class:
            return [ast.Assign(targets=[target], value=value)] if value is not None else []
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return _kept(statement.orelse, in_class=in_class)
        case ast.If(test=ast.Attribute(value=ast.Name(id="typing"), attr="TYPE_CHECKING")):
            return _kept(statement.orelse, in_class=in_class)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            _forget_annotations(statement)
            in_class = False
        case ast.ClassDef():
            in_class = True
        case _:
            pass
    _keep_within(statement, in_class)
    return [statement]


def _keep_within(holder: ast.AST, in_class: bool) -> None:
    """Leave what counts in the blocks of a statement, handler or case; `pass` if it is nothing."""
    for name in _BLOCKS:
        block = getattr(holder, name, None)
        if not block:
            continue
        if name in ("handlers", "cases"):
            for part in block:
                _keep_within(part, in_class)
        else:
            kept = _kept(block, in_class=in_class)
            setattr(holder, name, kept or ([ast.Pass()] if name == "body" else []))


def _forget_annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    function.returns = None
    of = function.args
    for parameter in (*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg):
        if parameter is not None:
            parameter.annotation = None


def _write(value: object, pieces: list[str]) -> None:
    """Add the text of a node, of a list of them, or of a constant."""
    if isinstance(value, ast.AST):
        pieces += (type(value).__name__, "(")
        for name in value._fields:
            field = getattr(value, name, None)
            # `ctx` and `kind` say nothing that other fields do not: x in `x = 1` is stored, and
            # u"x" is "x".
            if isinstance(value, ast.JoinedStr):
                field = _joined(value.values)
            if field is None or field == [] or name in ("ctx", "kind"):
                continue
            pieces += (name, "=")
            _write(field, pieces)
        pieces.append(")")
    elif isinstance(value, list):
        pieces.append("[")
        for item in cast("list[object]", value):
            _write(item, pieces)
        pieces.append("]")
    else:
        # `repr` shows what Unicode knew as printable when that Python was made.
        pieces += (ascii(value), ",")


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, neighbouring texts as one."""
    joined: list[ast.expr] = []
    for value in values:
        match joined[-1:], value:
            case [ast.Constant(value=str(before))], ast.Constant(value=str(after)):
                joined[-1] = ast.Constant(before + after)
            case _, ast.Constant(value=""):
                pass
            case _:
                joined.append(value)
    return joined
