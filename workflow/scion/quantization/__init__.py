"""From bf16 to NVFP4: recipes, calibration, one decoder layer after another, and the grafted head.

Begin with:

- `scion.quantization.recipe_table`: one row a recipe; `scion.quantization.recipes` builds what
  ModelOpt is given.
- `scion.quantization.layerwise.stream`: the run over all layers, with ModelOpt's own pieces.
- `scion.quantization.mtp_head.declare_head`: checks a donor's head against the names, shapes and
  dtype that the target's config.json implies, and declares it; the graft itself is
  `scion.stages.graft_mtp`.
- `scion.quantization.estimate`: what it will take, from headers alone.
- `scion.quantization.calibration`: samples, and the batches that they are run in.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint.

To extend: a recipe is a row in `recipe_table`.
"""
