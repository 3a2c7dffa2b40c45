"""Proof of a release by whoever holds it: what follows from its source and donor, bit by bit.

Nothing that a release says of itself is believed where its source or donor can tell. A release that
another tool made, without a manifest, is audited from its config.json alone.

Begin with `audit.audit`, which puts the parts together, and `verdict`, what it says of each:

- `seal`: what a release proves alone; `claims`: what it says of how it was made.
- `weights`, `stored`: the tensors of a checkpoint where they lie, and what each of them is.
- `origin`: every tensor followed to source or donor; `equality` compares bytes, `derivation` packs
  again what is quantized, `full_derivation` quantizes all of it again.
- `configuration`: config.json and the tokenizer's files.
- `difference`: two checkpoints side by side; `explanation`: where something of a release came from.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization,
evaluation, healing, report, stages.

To extend: a part is a function that gives a `PartVerdict`, called in `audit`; a tampering that it
finds goes into tests/unit/test_audit.py.
"""
