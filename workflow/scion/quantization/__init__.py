"""Quantizing one decoder layer after another, with ModelOpt's own pieces.

- `recipes`: what can be made of a layer, as named settings that a card can quote.
- `torch_kernels`: what ModelOpt does in CUDA alone, in torch, for machines without a GPU.
- `gptq`: weight updates on scales that are already chosen.
- `skeleton`: a model without weights, which knows what each layer is called with.
- `hidden_states`: the activations between two layers, on the device, in host memory or on disk.
- `layer`: one layer: its weights loaded, calibrated, packed.
- `planned_shards`: the release's shards, laid out before the first layer is read; resumable.
- `stream`: the run over all layers.
"""
