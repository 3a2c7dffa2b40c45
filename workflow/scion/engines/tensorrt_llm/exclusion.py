"""Which layers an exclusion list covers, as TensorRT-LLM matches it.

`scion.engines.loading.exclusion` says what a matcher is.
"""

from collections.abc import Iterable

from scion.architectures.family import Fused
from scion.engines.loading.engine import Matchers
from scion.engines.loading.exclusion import NOT_EXCLUDED, Verdict, by, glob, shard_names
from scion.engines.loading.scheme import Scheme
from scion.engines.releases import EngineRelease


def matchers(release: EngineRelease, scheme: Scheme, fused: Fused) -> Matchers:
    """The reading of a scheme's exclusion list, the same for all methods and releases."""
    return Matchers(Globs(scheme.exclude, fused))


class Globs:
    """TensorRT-LLM's exclusion: case-sensitive globs, and one part excludes the whole fused layer.

    https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/_torch/models/modeling_utils.py

    Args:
        patterns: The list's entries.
        fused: Parts by fused name.
    """

    def __init__(self, patterns: Iterable[str], fused: Fused) -> None:
        self._globs = [(pattern, glob(pattern)) for pattern in dict.fromkeys(patterns)]
        self._fused = fused

    def verdict(self, layer: str) -> Verdict:
        """Whether a pattern takes the layer's name or that of any part."""
        for name in (layer, *shard_names(layer, self._fused)):
            for pattern, compiled in self._globs:
                if compiled.match(name):
                    return by(pattern, "glob")
        return NOT_EXCLUDED
