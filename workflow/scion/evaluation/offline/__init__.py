"""`scion acceptance`: how many drafts a release's MTP head gets accepted, without a server.

Target and head run in torch, on a GPU or a CPU, and what is counted is what vLLM counts when it
serves the release with `--speculative-config '{"method": "mtp", ...}'` and decodes greedily.

- `prompts.py`: prompts as a server renders them.
- `linear.py`: NVFP4 matrices with vLLM's emulated arithmetic.
- `weights.py`: modules filled from a checkpoint.
- `target.py`: the language model, decoding greedily.
- `delta_net.py`: its recurrent layers, in the precision of vLLM's kernels.
- `mtp.py`: the head, and how it drafts.
- `acceptance.py`: rounds of drafts, counts, estimates.
"""
