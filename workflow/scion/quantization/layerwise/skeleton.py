"""A model without weights, which knows with what each of its decoder layers is called."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from modelopt.torch.quantization.utils.layerwise_calib import LayerActivationCollector
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from scion.architectures.family import Family
from scion.common.errors import ScionError
from scion.quantization.layerwise.recording import Arguments, Recording


@dataclass(frozen=True)
class Skeleton:
    """A language model of which no weight is loaded.

    Attributes:
        layers: Its decoder layers, on the meta device, in order.
        names: For each layer its name in the model's class, such as `model.layers.3`.
        hidden_size: Width of what layers hand on.
        context: Most tokens that the model takes.
    """

    layers: tuple[nn.Module, ...]
    names: tuple[str, ...]
    hidden_size: int
    context: int
    _recording: Recording

    @classmethod
    def build(cls, folder: Path) -> "Skeleton":
        """The model that config.json in `folder` declares.

        Raises:
            ScionError: transformers or ModelOpt does not know it as a decoder.
        """
        config = AutoConfig.from_pretrained(folder).get_text_config()
        with init_empty_weights():
            # "eager" is the one way through experts that ModelOpt's quantizers see.
            model: Any = AutoModelForCausalLM.from_config(
                config, dtype=torch.bfloat16, experts_implementation="eager"
            ).eval()
        decoder_layers: Any = LayerActivationCollector.get_decoder_layers(model)
        if decoder_layers is None:
            raise ScionError(
                "no decoder layers are found in this model",
                where=folder / "config.json",
                expected="a causal language model that ModelOpt can walk layer by layer",
                found=type(model).__name__,
                hint="name a checkpoint of a supported architecture",
            )
        name_of = {id(module): name for name, module in model.named_modules()}
        recording = Recording(model.model, decoder_layers)
        return cls(
            layers=recording.layers,
            names=tuple(name_of[id(layer)] for layer in recording.layers),
            hidden_size=config.hidden_size,
            context=config.max_position_embeddings,
            _recording=recording,
        )

    def stored_name(self, layer: int, family: Family) -> str:
        """A layer's name in a checkpoint of the family, which may nest the language model."""
        return f"{family.prefix}{self.names[layer].removeprefix(family.flat_prefix)}"

    def layer(self, number: int) -> nn.Module:
        """A new copy of one layer, still without weights."""
        return copy.deepcopy(self.layers[number])

    def arguments(self, embedded: Tensor, positions: Tensor | None = None) -> list[Arguments]:
        """As `Recording.arguments`."""
        return self._recording.arguments(embedded, positions)
