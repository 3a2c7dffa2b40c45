"""Scion: reproducible NVFP4 releases of Qwen3.5/3.6 checkpoints, with MTP head and proof.

The package is what the Snakemake rules call. A stage (`scion.stages`) is one plain function that
turns artifacts into an artifact: a folder of files and its `manifest.json` (`scion.artifact`).
Below the stages, each thing stands once: `safetensors_file` (headers and byte ranges),
`checkpoint` (shards and index as one mapping of tensors), `architectures` (what a config.json
implies), `nvfp4` (the number format and how its layout is declared), `hub` (range reads of
Hugging Face repositories) and `engines` (how a server is started, waited for and stopped).
"""
