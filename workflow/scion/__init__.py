"""Scion: reproducible NVFP4 releases of Qwen3.5/3.6 checkpoints, with MTP head and proof.

The package is what the Snakemake rules call. A stage is one plain function that turns artifacts
into an artifact: a folder of files, and a manifest that says what each is and what it was made
from. The packages lie in layers; each imports only from those above it in this list:

- `scion.common`: errors, files, digests, text; what every package needs.
- `scion.architectures`: what a config.json implies; one row an architecture family.
- `scion.formats`: NVFP4 and FP8, and how a release spells and declares them.
- `scion.checkpoint`: safetensors, shards and index as one mapping, in a folder or on the hub.
- `scion.artifacts`: manifests, the store, plans, identity of code and environment, the check.
- `scion.engines`: what vLLM, SGLang and TensorRT-LLM make of a checkpoint; flags, server, memory.
- `scion.lint`: what is wrong with a checkpoint.
- `scion.quantization`: recipes, calibration, layer by layer; the graft's checks; the estimate.
- `scion.evaluation`: speed, acceptance, agent tasks, quality; every number with its interval.
- `scion.healing`: training of a grafted MTP head on the body of its release.
- `scion.report`: summary, card, pictures, comparison.
- `scion.stages`: one module a rule.
- `scion.config`: the configuration of a release, composed of the sections that packages own.
- `scion.cli`: the command `scion`.

Each package's docstring says what it is for, which names to begin with, what it may import, and how
it is extended: `python -m pydoc scion.quantization`. import-linter holds the order (`make check`).
The docstrings hand on no names: Python runs a package's `__init__.py` before anything below it, so
a face that imports would make every stage load what it does not use.
"""
