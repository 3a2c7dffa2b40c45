"""What a config.json implies: every tensor's name and shape, what quantizes, what engines fuse.

Begin with:

- `scion.architectures.families`: one row an architecture family: keys, parts, prefixes, where its
  MTP head lies, what engines fuse, what stays bf16, parsers, the transformers class.
- `scion.architectures.inventory.inventory`: the tensors of a checkpoint that releases are made of;
  `scion.architectures.inventory.implied`: those of any architecture that is known.
- `scion.architectures.sound_names`: which tensor a key with a wrong prefix means.

May import: common.

To extend: a row in `families`; CONTRIBUTING.md says which test to copy. Needs no torch.
"""
