"""The bf16 checkpoint that quantize_nvfp4 will get, as it follows from a source's headers alone.

Between the two the workflow repairs keys and takes the vision tower and an MTP head out; what that
does to names and sizes is done here to the headers. A repository on the hub is read in place: its
config.json, its index, and a range of each shard.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from scion.architectures.inventory import inventory
from scion.architectures.sound_names import sound_names
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.safetensors_file import Header
from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.checkpoint.source_parts import LANGUAGE_MODEL
from scion.common.errors import ScionError
from scion.formats.modelopt import HF_QUANT_CONFIG
from scion.lint.subject import Subject


@dataclass(frozen=True)
class SourceHeaders:
    """What a source's headers tell.

    Attributes:
        bytes: Of all its tensors.
        text: Its language model, with sound keys: a checkpoint whose headers can be asked for names
            and sizes. Its data can't be read by them where something was taken out, or where it is
            not on this machine.
        rewritten: Bytes of the language model in shards that hold other parts, too: to take these
            out is to write the shard anew.
    """

    bytes: int
    text: Checkpoint
    rewritten: int = 0


def source_headers(location: str) -> SourceHeaders:
    """Read the headers of a source.

    Args:
        location: A folder, or `hf://owner/name[@revision]`.

    Raises:
        ScionError: No checkpoint is there, it can't be read, it is not of the known family, or it
            is quantized already.
    """
    subject = Subject.open(open_source(location), engines=())
    if subject.refusal is not None:
        raise subject.refusal
    folder = subject.source.folder or Path(subject.source.name)
    _require_plain(subject, folder)
    expected = inventory(subject.config, where=folder / CONFIG)
    tensors = {name: shard for shard in subject.shards for name in subject.headers[shard].tensors}
    names = sound_names(tensors, expected, where=folder)
    out = {*expected.mtp, *expected.vision}
    headers: dict[str, Header] = {}
    rewritten = 0
    for shard in subject.shards:
        header = subject.headers[shard]
        kept = {
            names[old]: replace(tensor, name=names[old])
            for old, tensor in header.tensors.items()
            if out.isdisjoint(expected.represented([names[old]]))
        }
        if kept:
            headers[shard] = replace(header, tensors=kept)
            if len(kept) < len(header.tensors):
                rewritten += sum(tensor.size for tensor in kept.values())
    shard_of = {name: shard for shard, header in headers.items() for name in header.tensors}
    config = LANGUAGE_MODEL.config(subject.config)
    size = sum(t.size for shard in subject.shards for t in subject.headers[shard].tensors.values())
    return SourceHeaders(size, Checkpoint(folder, headers, shard_of, config), rewritten)


def _require_plain(subject: Subject, folder: Path) -> None:
    """Refuse what is quantized already: its names and dtypes would be called broken."""
    declared = subject.declared
    if not declared:
        return
    words = ((key, declared.get(key)) for key in ("quant_method", "quant_algo", "format"))
    said = [f"{key} {word}" for key, word in words if isinstance(word, str)]
    raise ScionError(
        "this checkpoint is quantized already",
        where=folder / (CONFIG if subject.scheme else HF_QUANT_CONFIG),
        expected="a bf16 checkpoint, which declares no quantization",
        found=", ".join(said) or "the declaration of a method that has no name",
        hint="give the bf16 source that it was made of",
    )
