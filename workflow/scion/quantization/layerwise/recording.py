"""With what a model calls each of its decoder layers, found out without any weight.

transformers makes masks, positions and rotary embeddings before the first layer; they depend on a
sample's length and the layer's kind, not on weights. So the layers are replaced by recorders, and
one pass over a sample's embeddings tells the arguments of every layer, whatever the architecture.
"""

from typing import Any

import torch
from torch import Tensor, nn

Arguments = dict[str, Any]


class _Recorder(nn.Module):
    """Stands for a decoder layer: keeps its keyword arguments, returns its input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Arguments = {}

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        self.seen = arguments
        return hidden_states


class Recording:
    """A model whose layers were taken out.

    Args:
        model: What runs over the layers, with `norm` and `rotary_emb`; it loses layers and norm.
        layers: The model's list of its decoder layers.

    Attributes:
        layers: The layers, in order.
    """

    def __init__(self, model: Any, layers: nn.ModuleList) -> None:
        self.layers = tuple(layers)
        self._recorders = tuple(_Recorder() for _ in layers)
        for number, recorder in enumerate(self._recorders):
            layers[number] = recorder
        model.norm = nn.Identity()
        self._model = model

    @torch.no_grad()
    def arguments(self, embedded: Tensor, positions: Tensor | None = None) -> list[Arguments]:
        """What the model calls each of its layers with, beside the hidden states.

        Args:
            embedded: [1, tokens, hidden_size], embeddings of a sample; only shape and device count.
            positions: int64 [1, tokens]; 0, 1, 2, … if there are none.

        Returns:
            Keyword arguments, layer by layer. Tensors are shared between layers, not copied.
        """
        self._model.rotary_emb.to(embedded.device)
        self._model(inputs_embeds=embedded, position_ids=positions, use_cache=False)
        seen = [recorder.seen for recorder in self._recorders]
        for recorder in self._recorders:
            recorder.seen = {}
        return seen
