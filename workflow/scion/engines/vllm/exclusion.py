"""Which layers an exclusion list covers, as vLLM matches it, and how its classes rename lists.

`scion.engines.loading.exclusion` says what a matcher is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scion.architectures.family import Fused
from scion.engines.loading.class_build import rename
from scion.engines.loading.engine import Matchers
from scion.engines.loading.exclusion import (
    NOT_EXCLUDED,
    NamesAndPatterns,
    Verdict,
    all_or_none,
    by,
    glob,
    shard_names,
)
from scion.engines.loading.scheme import Group, Scheme
from scion.engines.releases import EngineRelease, affects


def matchers(release: EngineRelease, scheme: Scheme, fused: Fused) -> Matchers:
    """The reading of a scheme's exclusion list."""
    if scheme.method == "compressed-tensors":
        first = affects("vllm>=0.30", release)
        return Matchers(NamesAndPatterns(scheme.exclude, fused, fused_name_first=first))
    counts = affects("vllm>=0.24", release)
    if scheme.method == "fp8":
        return Matchers(ExactNames(scheme.exclude, fused, fused_name_counts=counts))
    return Matchers(SubstringsAndGlobs(scheme.exclude, fused, fused_name_counts=counts))


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


class SubstringsAndGlobs:
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
        self._globs = [(pattern, glob(pattern)) for pattern in self._patterns]

    def verdict(self, layer: str) -> Verdict:
        """The first step that excludes the layer, or the partly listed group that is refused."""
        exact = self._exact.verdict(layer)
        if exact.excluded or exact.problem:
            return exact
        for pattern in self._patterns:
            if pattern in layer and pattern != layer:
                return by(pattern, "substring")
        for pattern, compiled in self._globs:
            if compiled.match(layer):
                return by(pattern, "glob")
        return NOT_EXCLUDED


def renamed(scheme: Scheme, renames: Mapping[str, str]) -> Scheme:
    """A scheme in the engine's names, as vLLM's model classes rename a declaration."""
    if scheme.method != "compressed-tensors":
        entries = scheme.exclude
        if scheme.method.startswith("modelopt"):
            entries = rewritten(entries)
        exclude = [rename(entry, renames) for entry in entries]
        layers = {rename(name, renames): algorithm for name, algorithm in scheme.layers.items()}
        return replace(scheme, exclude=exclude, layers=layers)

    def paths_renamed(entries: Sequence[str]) -> list[str]:
        """Only what looks like a path is one: a class has no dot, a pattern starts with `re:`."""
        paths = ("." in entry and not entry.startswith("re:") for entry in entries)
        return [
            rename(entry, renames) if path else entry
            for entry, path in zip(entries, paths, strict=True)
        ]

    groups = [Group(paths_renamed(group.targets), group.algorithm) for group in scheme.groups]
    return replace(scheme, exclude=paths_renamed(scheme.exclude), groups=groups)


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
