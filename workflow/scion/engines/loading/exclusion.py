"""Which layers an exclusion list covers: what a matcher is, and what several engines share of one.

A matcher answers for one *engine-side* layer name, fused with others where the engine fuses. No two
engines read a list alike: that is why a release that loads in one fails in the next. So each
engine's folder has an `exclusion` module with its matchers.

Engines compile `re:` patterns with the package `regex`, this module with `re`; the two agree on
what exclusion lists use.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from scion.architectures.family import Fused


@dataclass(frozen=True)
class Verdict:
    """What a list says about one layer.

    Attributes:
        excluded: Whether the layer stays unquantized.
        reason: The entry that decided and how it matched; `not excluded` where none did.
        problem: Why the engine refuses to build the layer; None where it does not.
    """

    excluded: bool
    reason: str
    problem: str | None = None


NOT_EXCLUDED = Verdict(False, "not excluded")


class Matcher(Protocol):
    """An engine's reading of one exclusion list."""

    def verdict(self, layer: str) -> Verdict:
        """What the list says about an engine-side layer."""
        ...


class NamesAndPatterns:
    """compressed-tensors' `ignore`: exact names and `re:` patterns, anchored at the start only.

    Engines restate the library's `should_ignore_layer`, vLLM's the most plainly.

    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/compressed_tensors/utils.py

    Args:
        patterns: The entries, with the names among them in the engine's spelling.
        fused: Parts by fused name.
        fused_name_first: Whether any entry that matches the fused name decides; else only its
            literal name does, and a pattern must match every part.
    """

    def __init__(self, patterns: Iterable[str], fused: Fused, *, fused_name_first: bool) -> None:
        self.patterns = list(dict.fromkeys(patterns))
        self._fused = fused
        self._fused_name_first = fused_name_first

    def verdict(self, layer: str) -> Verdict:
        """Whether the layer, or every part of it, is ignored."""
        try:
            parts = shard_names(layer, self._fused)
            if not parts or self._fused_name_first or layer in self.patterns:
                whole = self.match(layer)
                if not parts or whole.excluded:
                    return whole
            return all_or_none(layer, {part: self.match(part) for part in parts})
        except re.error as error:
            return Verdict(False, "not excluded", f"an `re:` entry of the list is invalid: {error}")

    def match(self, name: str) -> Verdict:
        """The first entry that takes a name, which is no fused layer's.

        Raises:
            re.error: An entry is no regular expression.
        """
        matching = (pattern for pattern in self.patterns if equal_or_regex(name, pattern))
        # Where it comes first each pattern is tried, and an invalid one fails whatever precedes it.
        tried = iter(list(matching)) if self._fused_name_first else matching
        return next((by(pattern, "exact or regex") for pattern in tried), NOT_EXCLUDED)


def shard_names(layer: str, fused: Fused) -> list[str]:
    """The names of a fused layer's parts; empty for a layer that is not fused.

    Engines put the part's name in place of *every* occurrence of the fused one.
    """
    name = layer.rpartition(".")[2]
    return [layer.replace(name, part) for part in fused.get(name, ())]


def equal_or_regex(name: str, pattern: str) -> bool:
    """How compressed-tensors matches a name: literally, or from its start where `re:` is given.

    Raises:
        re.error: The pattern is not a regular expression.
    """
    if pattern.startswith("re:"):
        return _regex(pattern.removeprefix("re:")).match(name) is not None
    return pattern == name


def by(pattern: str, how: str) -> Verdict:
    """The verdict of an entry that excludes."""
    return Verdict(True, f"{pattern!r} ({how})")


def all_or_none(layer: str, parts: Mapping[str, Verdict]) -> Verdict:
    """The verdict on a fused layer of which each part was looked up."""
    excluded = {part: verdict for part, verdict in parts.items() if verdict.excluded}
    if not excluded:
        return NOT_EXCLUDED
    reason = ", ".join(dict.fromkeys(verdict.reason for verdict in excluded.values()))
    if len(excluded) == len(parts):
        return Verdict(True, reason)
    names = ", ".join(part.rpartition(".")[2] for part in excluded)
    return Verdict(False, reason, f"of the fused layer {layer} only {names} is excluded")


@cache
def glob(pattern: str) -> re.Pattern[str]:
    """An entry as a shell's pattern, case-sensitive."""
    return re.compile(fnmatch.translate(pattern))


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
