"""YAML as configuration files hold it, read in bounded time: no key twice, no bomb of aliases.

An alias costs a few bytes and stands for all that its anchor names, so nine levels of nine are
387 million values. What a file would come to is counted on the parsed nodes, where an alias is only
a reference, before anything is made of them.
"""

from pathlib import Path
from typing import Any

import yaml

from scion.common.files import read_regular

MAX_BYTES = 1 << 18
MAX_VALUES = 20_000


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        OSError: It can't be read, or is no regular file.
        ValueError: It is not UTF-8 or not YAML, or is beyond the module's bounds; says where.
    """
    text = read_regular(path, limit=MAX_BYTES).decode()
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _count(node: yaml.Node, counts: dict[int, int | None]) -> int:
    """How many values a node stands for, aliases written out; `counts` has those that were met."""
    if id(node) in counts:
        known = counts[id(node)]
        if known is None:
            raise _refusal(node, "an anchor that holds an alias of itself")
        return known
    counts[id(node)] = None
    total = 1
    for child in _children(node):
        total += _count(child, counts)
        if total > MAX_VALUES:
            raise _refusal(node, f"more than {MAX_VALUES} values, aliases written out")
    counts[id(node)] = total
    return total


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return node.value
    if not isinstance(node, yaml.MappingNode):
        return []
    keys: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in keys:
                raise _refusal(key, f"the key {key.value[:80]!r} a second time in one mapping")
            keys.add((key.tag, key.value))
    return [part for pair in node.value for part in pair]


def _refusal(node: yaml.Node, found: str) -> ValueError:
    mark = node.start_mark
    return ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {found}")
