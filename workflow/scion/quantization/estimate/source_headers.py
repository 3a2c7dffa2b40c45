"""The bf16 checkpoint that quantize_nvfp4 will get, as it follows from a source's headers alone.

Between the two the workflow repairs keys and takes the vision tower and an MTP head out; what that
does to names and sizes is done here to the headers. A repository on the hub is read in place: its
config.json, its index, and a range of each shard.
"""

from dataclasses import replace
from pathlib import Path

from scion.architectures.inventory import inventory
from scion.architectures.sound_names import sound_names
from scion.architectures.text_only import text_config
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.safetensors_file import Header
from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.lint.subject import Subject


def text_checkpoint(location: str, *, text_only: bool = True) -> Checkpoint:
    """What `location` will be when it is quantized.

    Args:
        location: A folder, or `hf://owner/name[@revision]`.
        text_only: False keeps the vision tower.

    Returns:
        A checkpoint whose headers can be asked for names and sizes. Its data can't be read by them
        where something was taken out, or where it is not on this machine.

    Raises:
        ScionError: No checkpoint is there, it can't be read, or it is not of the known family.
    """
    subject = Subject.open(open_source(location), engines=())
    if subject.refusal is not None:
        raise subject.refusal
    folder = subject.source.folder or Path(subject.source.name)
    expected = inventory(subject.config, where=folder / CONFIG)
    tensors = {name: shard for shard in subject.shards for name in subject.headers[shard].tensors}
    names = sound_names(tensors, expected, where=folder)
    out = {*expected.mtp, *(expected.vision if text_only else ())}
    headers: dict[str, Header] = {}
    for shard in subject.shards:
        header = subject.headers[shard]
        kept = {
            names[old]: replace(tensor, name=names[old])
            for old, tensor in header.tensors.items()
            if names[old] not in out
        }
        if kept:
            headers[shard] = replace(header, tensors=kept)
    shard_of = {name: shard for shard, header in headers.items() for name in header.tensors}
    return Checkpoint(folder, headers, shard_of, text_config(subject.config, text_only=text_only))
