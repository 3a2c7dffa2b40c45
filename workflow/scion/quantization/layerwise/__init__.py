"""Quantizing one decoder layer after another, with ModelOpt's own pieces.

Begin with `stream`, the run over all layers. It asks

- `skeleton`: a model without weights, which knows what each layer is called with;
- `hidden_states`: the activations between two layers, on the device, in host memory or on disk,
  where `placing` says;
- `layer`: one layer: its weights loaded, calibrated, packed; `maxima` and `gptq` are two of its
  steps, `torch_kernels` what ModelOpt computes in CUDA alone.
"""
