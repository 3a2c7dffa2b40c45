"""NVFP4 and FP8: the numbers, how they are packed, and how a release spells and declares them.

Begin with:

- `scion.formats.nvfp4`: what the packed bytes mean, and how far they may lie from their source.
- `scion.formats.packing.pack`: ModelOpt's bytes, made on a CPU.
- `scion.formats.stored_modules`: the algorithm of each module, and the tensors that it becomes.
- `scion.formats.spellings`: how these are called and declared, one row a spelling;
  `scion.formats.modelopt` is what ModelOpt's row is made of.

May import: common, architectures.

To extend: a spelling is a row in `scion.formats.spellings`; a number format is a module beside
`nvfp4` and `fp8`.
"""
