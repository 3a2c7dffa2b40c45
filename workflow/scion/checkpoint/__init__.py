"""Safetensors files, shards and index as one mapping of tensors, in a folder or on the hub.

Begin with:

- `scion.checkpoint.shards.Checkpoint`: a folder opened by its headers.
- `scion.checkpoint.safetensors_file`: one file: its header read with suspicion, rewritten in place,
  its ranges copied and hashed.
- `scion.checkpoint.folder_source.open_source`: configs, headers and small tensors of a folder or of
  `hf://owner/name`, read in place.
- `scion.checkpoint.hub.client`: verified downloads and byte ranges.

May import: common, architectures, formats.

To extend: another place that checkpoints lie in is one more `scion.checkpoint.source.Source`.
"""
