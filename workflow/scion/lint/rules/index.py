"""Rules over model.safetensors.index.json: whether it says what the shards hold."""

from collections.abc import Iterable, Mapping
from typing import Any

from scion.checkpoint.shards import INDEX
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject

_WRITE_ANEW = "write the index anew from the shards' headers"


@rule(
    "F121",
    "indexed-tensor-lost",
    Severity.ERROR,
    "the index names a tensor that no shard holds",
    repair="fetch index and shards at one revision; if the tensor is truly gone, get it from the "
    "checkpoint that this one was made from",
    seen=("https://github.com/huggingface/huggingface_hub/issues/4725",),
)
def indexed_tensor_lost(subject: Subject) -> Iterable[Finding]:
    """The tensor was dropped when the shards were written, and the index was kept.

    No engine compares the two. An unquantized model does not start in vLLM, for its check finds a
    weight that was not loaded; a quantized one has no such check, and serves uninitialised memory.
    transformers puts random weights there and says so in a warning. It is how MTP heads are lost:
    the index still lists them.
    """
    yield from (
        Finding(INDEX, name, f"in {shard}", "in no shard")
        for name, shard in (subject.index or {}).items()
        if shard in subject.headers and name not in subject.holders
    )


@rule(
    "F122",
    "indexed-elsewhere",
    Severity.WARNING,
    "the index names another shard for a tensor than the one that holds it",
    repair=_WRITE_ANEW,
)
def indexed_elsewhere(subject: Subject) -> Iterable[Finding]:
    """Engines read each shard whole and find the tensor; what seeks single tensors does not.

    vLLM, SGLang and transformers take from the index only the list of files. Tools that fetch or
    open one tensor by its entry (byte ranges from a hub, offloading to disk, converters) fail.
    """
    yield from (
        Finding(INDEX, name, f"in {shard}", f"in {', '.join(subject.holders[name])}")
        for name, shard in (subject.index or {}).items()
        if name in subject.holders and shard not in subject.holders[name]
    )


@rule(
    "F123",
    "not-indexed",
    Severity.WARNING,
    "a shard holds a tensor that the index leaves out",
    repair=_WRITE_ANEW,
)
def not_indexed(subject: Subject) -> Iterable[Finding]:
    """Engines load it nevertheless; what goes by the index does not know of it.

    vLLM, SGLang and transformers read each shard whole. Tools that go by the entries (byte ranges
    from a hub, offloading to disk, the hub's own list of tensors) miss the tensor, and converters
    that compare index and shards refuse the checkpoint.
    """
    index = subject.index
    if index is None:
        return
    yield from (
        Finding(shards[0], name, f"an entry in {INDEX}", "none")
        for name, shards in subject.holders.items()
        if name not in index
    )


@rule(
    "F124",
    "index-without-metadata",
    Severity.WARNING,
    "the index has no metadata, without which transformers does not load it",
    repair="add `metadata` with the `total_size` of all tensors in bytes",
    holds_for="transformers, and what loads through it: quantizers, trainers, evaluations",
)
def index_without_metadata(subject: Subject) -> Iterable[Finding]:
    """The model can be served, but not be loaded with transformers.

    vLLM and SGLang read `weight_map` alone. transformers reads `metadata` too, whether it needs it
    or not, and stops with a KeyError.
    """
    index = subject.json(INDEX)
    if index is not None and not isinstance(index.get("metadata"), dict):
        found = "null" if "metadata" in index else "no such key"
        yield Finding(INDEX, "metadata", "an object with total_size", found)


@rule(
    "F125",
    "total-size",
    Severity.NOTE,
    "the index states another size than the tensors have",
    repair=f"{_WRITE_ANEW}; total_size is the bytes of all tensors, without headers",
)
def total_size(subject: Subject) -> Iterable[Finding]:
    """`metadata.total_size` was carried over from another checkpoint, or tensors were lost.

    No engine reads it. Tools that plan room on disk or in memory do, and a difference is often the
    only trace of a tensor that was dropped or quantized after the index was written.
    """
    index = subject.json(INDEX) or {}
    stated = _metadata(index).get("total_size")
    if stated is None or any(shard not in subject.headers for shard in subject.shards):
        return
    actual = sum(
        tensor.size
        for shard in subject.shards
        for tensor in subject.headers[shard].tensors.values()
    )
    if stated != actual:
        yield Finding(INDEX, "metadata.total_size", f"{actual} bytes", str(stated)[:80])


def _metadata(index: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = index.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


RULES = (
    indexed_tensor_lost,
    indexed_elsewhere,
    not_indexed,
    index_without_metadata,
    total_size,
)
