"""The classes of transformers that a family is measured with, imported by their names."""

import importlib
from dataclasses import dataclass
from typing import Any

from scion.architectures.family import Family


@dataclass(frozen=True)
class Classes:
    """What `TransformersClasses` of a family's row names.

    Attributes:
        modeling: The module that has them all.
        config: The class of the whole config.json.
        text_model: Embeddings, decoder layers and final norm.
        layer: A decoder layer.
        norm: The norm of the residual stream.
        rotary: The rotary embedding.
        delta_net: The gated delta net.
    """

    modeling: Any
    config: Any
    text_model: Any
    layer: Any
    norm: Any
    rotary: Any
    delta_net: Any


def classes_of(family: Family) -> Classes:
    """Import the classes of a family.

    Raises:
        ValueError: Its row names none.
    """
    if family.transformers is None:
        raise ValueError(f"{family.title}: the family's row names no classes of transformers")
    names = family.transformers
    modeling = importlib.import_module(names.modeling)
    return Classes(
        modeling,
        # Modelling modules import their own configuration classes.
        *(
            getattr(modeling, name)
            for name in (
                names.config,
                names.text_model,
                names.layer,
                names.norm,
                names.rotary,
                names.delta_net,
            )
        ),
    )
