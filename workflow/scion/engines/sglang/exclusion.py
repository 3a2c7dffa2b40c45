"""Which layers an exclusion list covers, as SGLang matches it.

`scion.engines.loading.exclusion` says what a matcher is.
"""

import re
from collections.abc import Iterable
from functools import cache

from scion.architectures.family import FUSED_ATTENTION, FUSED_MLP, Fused
from scion.engines.loading.engine import Matchers
from scion.engines.loading.exclusion import (
    NOT_EXCLUDED,
    NamesAndPatterns,
    Verdict,
    all_or_none,
    by,
    equal_or_regex,
    shard_names,
)
from scion.engines.loading.scheme import Scheme
from scion.engines.releases import EngineRelease


def matchers(release: EngineRelease, scheme: Scheme, fused: Fused) -> Matchers:
    """The reading of a scheme's exclusion list; ModelOpt's experts are looked up by pattern alone.

    The same in every known release.
    """
    if scheme.method == "compressed-tensors":
        return Matchers(PathEndings(scheme.exclude, fused))
    if scheme.method == "fp8":
        return Matchers(DottedPaths(scheme.exclude, fused))
    return Matchers(PathsAndPatterns(scheme.exclude, fused), Patterns(scheme.exclude))


class DottedPaths:
    """SGLang's `is_layer_skipped`: entries are dotted paths, found anywhere between dots.

    https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/layers/quantization/utils.py

    Args:
        names: The list's entries.
        fused: Parts by fused name; those of attention and MLP where the model declares none.
    """

    def __init__(self, names: Iterable[str], fused: Fused) -> None:
        self._names = list(dict.fromkeys(names))
        self._paths = [(name, f".{name.rstrip('.')}.") for name in self._names]
        self._fused = {**FUSED_ATTENTION, **FUSED_MLP, **fused}

    def verdict(self, layer: str) -> Verdict:
        """Whether an entry is a path inside the layer's name, or inside each part's."""
        parts = shard_names(layer, self._fused)
        if parts:
            return all_or_none(layer, {part: self._match(part) for part in parts})
        verdict = self._match(layer)
        if verdict.excluded or "experts" not in layer:
            return verdict
        above = (name for name in self._names if "experts" in name and layer in name)
        return next((by(name, "holds the layer's name") for name in above), NOT_EXCLUDED)

    def _match(self, layer: str) -> Verdict:
        path = f".{layer.rstrip('.')}."
        inside = (name for name, wanted in self._paths if wanted in path)
        return next((by(name, "path") for name in inside), NOT_EXCLUDED)


class Patterns:
    """SGLang's `is_layer_excluded`: patterns over the whole name and each dotted part of it.

    A pattern is a regular expression in which `.` is literal and `*` stands for anything, so `?`
    and brackets mean what they mean in an expression.
    https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/layers/quantization/modelopt_quant.py

    Args:
        patterns: The list's entries.
    """

    _LATENT = frozenset(("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"))

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = list(dict.fromkeys(patterns))

    def verdict(self, layer: str) -> Verdict:
        """Whether a pattern takes the name, one of its parts, or the end of a fused name."""
        wholes = dict.fromkeys((layer, layer.removeprefix("language_model.")))
        names = [*wholes, *(part for whole in wholes for part in whole.split("."))]
        last = layer.rpartition(".")[2]
        try:
            for pattern in self._patterns:
                expression = _expression(pattern)
                if any(expression.fullmatch(name) for name in names):
                    return by(pattern, "pattern")
                tail = pattern.rpartition(".")[2]
                if tail in self._LATENT and tail in last:
                    return by(pattern, "part of a latent projection")
        except re.error as error:
            problem = f"SGLang cannot compile an entry of the list: {error}"
            return Verdict(False, "not excluded", problem)
        return NOT_EXCLUDED


class PathsAndPatterns:
    """What SGLang asks of a linear layer or head: the paths, then the patterns.

    Args:
        patterns: The list's entries.
        fused: Parts by fused name.
    """

    def __init__(self, patterns: Iterable[str], fused: Fused) -> None:
        entries = list(patterns)
        self._names = DottedPaths(entries, fused)
        self._patterns = Patterns(entries)

    def verdict(self, layer: str) -> Verdict:
        """The paths' verdict where they have one, else the patterns'."""
        named = self._names.verdict(layer)
        return named if named.excluded or named.problem else self._patterns.verdict(layer)


class PathEndings(NamesAndPatterns):
    """SGLang's `should_ignore_layer`: as vLLM's before 0.30, and names may be a path's last parts.

    https://github.com/sgl-project/sglang/blob/v0.5.23/python/sglang/srt/layers/quantization/compressed_tensors/utils.py
    """

    def __init__(self, patterns: Iterable[str], fused: Fused) -> None:
        super().__init__(patterns, fused, fused_name_first=False)

    def match(self, name: str) -> Verdict:
        """The first entry that takes a name, or the end of its path."""
        for pattern in self.patterns:
            if equal_or_regex(name, pattern):
                return by(pattern, "exact or regex")
            if not pattern.startswith("re:") and name.endswith(f".{pattern}"):
                return by(pattern, "path ending")
        return NOT_EXCLUDED


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(".", r"\.").replace("*", ".*"))
