"""A release in torch, without a server: how many drafts its MTP head gets accepted, and more.

Target and head run on a GPU or a CPU, and what is counted is what vLLM counts when it serves the
release with `--speculative-config '{"method": "mtp", ...}'` and decodes greedily. Begin with
`acceptance.measure_offline`, which `scion acceptance` calls; `Acceptance.per_position` and
`Acceptance.mean_length` are its figures with their intervals. `quality` and `variants` use
`target.Target` alone, as a model that reads documents.

- `prompts.py`: prompts as a server renders them.
- `linear.py`: NVFP4 and FP8 matrices with vLLM's emulated arithmetic.
- `weights.py`: modules filled from a checkpoint.
- `target.py`: the language model, decoding greedily.
- `delta_net.py`: its recurrent layers, in the precision of vLLM's kernels.
- `mtp.py`: the head, and how it drafts.
- `acceptance.py`: rounds of drafts, counts, estimates.

It imports checkpoints, formats and architectures, and of evaluation only chats and intervals.

To extend it: a number format is a class of `linear` that `weights.Weights.fill` puts in place of
`nn.Linear`, and its name in the check of the declared quantization.
"""
