"""Healing of a grafted MTP head: training it on the body that it drafts for.

A head comes from the base model, was trained on a bf16 body, often for one step, and serves on a
fine-tuned NVFP4 body several steps deep. Drafts are verified, so text never changes; a head that
knows its body is accepted more often, which is speed.

Begin with `heal.heal`, which puts the parts together:

- `replies`, `texts`: what the head learns from, the body's own replies and given dialogues.
- `body`: the frozen body's hidden states for these texts, computed layer by layer.
- `head`: the head, unrolled over the steps that engines draft; `losses`: what it learns.
- `rounding`: what FP8 or NVFP4 makes of a head's matrices, for a head that is released so.
- `training`: the loop over them, which a run that was killed goes on with.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization,
evaluation.

To extend: a loss is a name in `config.LossName` and its formula in `losses`.
"""
