"""Scion: reproducible NVFP4 releases of Qwen3.5/3.6 checkpoints, with MTP head and proof.

The package is what the Snakemake rules call. A stage (`scion.stages`) is one plain function that
turns artifacts into an artifact: a folder of files and its `manifest.json` (`scion.artifacts`).
Below the stages lie packages in layers, each of which imports only from those before it: `common`,
`architectures` (what a config.json implies), `formats` (the numbers, and how they are declared),
`checkpoint` (safetensors, here or on the hub), `artifacts`, `engines` (how a server reads, starts
and is asked), `lint`, `quantization`, `evaluation`, `report`; `config` and `cli` stand above all.
"""
