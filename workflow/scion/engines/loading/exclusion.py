"""Which layers an exclusion list covers, as each engine matches it.

A matcher answers for one *engine-side* layer name, fused with others where the engine fuses. No two
engines read a list alike: that is why a release that loads in one fails in the next. Here are vLLM
and TensorRT-LLM; `scion.engines.sglang.exclusion` has SGLang's.

vLLM compiles `re:` patterns with the package `regex`, this module with `re`; the two agree on what
exclusion lists use.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

Fused = Mapping[str, Sequence[str]]


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


class ExactNames:
    """vLLM's `is_layer_skipped`: all of an FP8 list, and the first step of a ModelOpt one.

    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/utils/quant_utils.py

    Args:
        names: The list's entries.
        fused: Parts by fused name.
        fused_name_counts: Whether listing a fused layer itself covers it (vLLM from 0.24).
    """

    def __init__(self, names: Iterable[str], fused: Fused, *, fused_name_counts: bool) -> None:
        self._names = dict.fromkeys(names)
        self._experts = [name for name in self._names if "experts" in name]
        self._fused = fused
        self._fused_name_counts = fused_name_counts

    def verdict(self, layer: str) -> Verdict:
        """Exact names, all parts of a fused layer, and for experts any entry that holds them."""
        parts = shard_names(layer, self._fused)
        if parts:
            if self._fused_name_counts and layer in self._names:
                return by(layer, "exact")
            return all_or_none(layer, {part: self._exact(part) for part in parts})
        if "experts" in layer:
            above = (name for name in self._experts if layer in name)
            return next((by(name, "holds the layer's name") for name in above), NOT_EXCLUDED)
        return by(layer, "exact") if layer in self._names else NOT_EXCLUDED

    def _exact(self, name: str) -> Verdict:
        return by(name, "exact") if name in self._names else NOT_EXCLUDED


class VllmModelOpt:
    """vLLM's `ModelOptQuantConfigBase.is_layer_excluded`: exact, then substring, then `fnmatch`.

    The same from 0.19.1 to 0.33.0, but for the first step.
    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/modelopt.py

    Args:
        patterns: The entries, after `rewritten`.
        fused: Parts by fused name.
        fused_name_counts: As for `ExactNames`.
    """

    def __init__(self, patterns: Iterable[str], fused: Fused, *, fused_name_counts: bool) -> None:
        self._patterns = list(dict.fromkeys(patterns))
        self._exact = ExactNames(self._patterns, fused, fused_name_counts=fused_name_counts)
        self._globs = [(pattern, _glob(pattern)) for pattern in self._patterns]

    def verdict(self, layer: str) -> Verdict:
        """The first step that excludes the layer, or the partly listed group that is refused."""
        exact = self._exact.verdict(layer)
        if exact.excluded or exact.problem:
            return exact
        for pattern in self._patterns:
            if pattern in layer and pattern != layer:
                return by(pattern, "substring")
        for pattern, glob in self._globs:
            if glob.match(layer):
                return by(pattern, "glob")
        return NOT_EXCLUDED


class VllmCompressedTensors:
    """vLLM's `should_ignore_layer`: exact names and `re:` patterns, anchored at the start only.

    https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/layers/quantization/compressed_tensors/utils.py

    Args:
        patterns: The entries, with the names among them in the engine's spelling.
        fused: Parts by fused name.
        fused_name_first: Whether any entry that matches the fused name decides (from 0.30);
            earlier only its literal name does, and a pattern must match every part.
    """

    def __init__(self, patterns: Iterable[str], fused: Fused, *, fused_name_first: bool) -> None:
        self._patterns = list(dict.fromkeys(patterns))
        self._fused = fused
        self._fused_name_first = fused_name_first

    def verdict(self, layer: str) -> Verdict:
        """Whether the layer, or every part of it, is ignored."""
        try:
            parts = shard_names(layer, self._fused)
            if not parts or self._fused_name_first or layer in self._patterns:
                whole = self._match(layer)
                if not parts or whole.excluded:
                    return whole
            return all_or_none(layer, {part: self._match(part) for part in parts})
        except re.error as error:
            return Verdict(False, "not excluded", f"an `re:` entry of the list is invalid: {error}")

    def _match(self, name: str) -> Verdict:
        matching = (one for one in self._patterns if equal_or_regex(name, one))
        # From 0.30 each pattern is tried, and an invalid one fails whatever stands before it.
        tried = iter(list(matching)) if self._fused_name_first else matching
        return next((by(pattern, "exact or regex") for pattern in tried), NOT_EXCLUDED)


class TensorRtLlm:
    """TensorRT-LLM's exclusion: case-sensitive globs, and one part excludes the whole fused layer.

    https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/_torch/models/modeling_utils.py

    Args:
        patterns: The list's entries.
        fused: Parts by fused name.
    """

    def __init__(self, patterns: Iterable[str], fused: Fused) -> None:
        self._globs = [(pattern, _glob(pattern)) for pattern in dict.fromkeys(patterns)]
        self._fused = fused

    def verdict(self, layer: str) -> Verdict:
        """Whether a pattern takes the layer's name or that of any part."""
        for name in (layer, *shard_names(layer, self._fused)):
            for pattern, glob in self._globs:
                if glob.match(name):
                    return by(pattern, "glob")
        return NOT_EXCLUDED


def shard_names(layer: str, fused: Fused) -> list[str]:
    """The names of a fused layer's parts; empty for a layer that is not fused.

    Engines put the part's name in place of *every* occurrence of the fused one.
    """
    name = layer.rpartition(".")[2]
    return [layer.replace(name, part) for part in fused.get(name, ())]


def rewritten(patterns: Iterable[str]) -> list[str]:
    """A ModelOpt list as vLLM rewrites it where a model class renames modules.

    `X*` becomes `X` and `X.*`, of which `X` then matches as a substring
    (https://github.com/vllm-project/vllm/issues/28072).
    """
    entries: list[str] = []
    for pattern in patterns:
        tree = len(pattern) >= 2 and pattern[-1] == "*" and pattern[-2] != "."
        entries += [pattern[:-1], f"{pattern[:-1]}.*"] if tree else [pattern]
    return entries


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
    found = {part: verdict for part, verdict in parts.items() if verdict.excluded}
    if not found:
        return NOT_EXCLUDED
    reason = ", ".join(dict.fromkeys(verdict.reason for verdict in found.values()))
    if len(found) == len(parts):
        return Verdict(True, reason)
    names = ", ".join(part.rpartition(".")[2] for part in found)
    return Verdict(False, reason, f"of the fused layer {layer} only {names} is excluded")


@cache
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
