"""What the flags of a launch depend on in the checkpoint that is served."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.architectures.families import family_of
from scion.architectures.family import Family
from scion.checkpoint.safetensors_file import read_header
from scion.checkpoint.shards import CONFIG, SINGLE, index_of, read_object
from scion.formats.modelopt import HF_QUANT_CONFIG, MIXED


@dataclass(frozen=True)
class ServedModel:
    """A checkpoint as its servers' flags see it.

    Attributes:
        family: The row of its architecture; None where it is not known.
        algorithm: ModelOpt's algorithm, such as NVFP4, where ModelOpt's scheme is declared; None
            for an unquantized checkpoint and for every other scheme, which engines take from
            config.json without being told.
        lost_tower: Whether its class has a vision tower, and the checkpoint no tensor of one.
    """

    family: Family | None
    algorithm: str | None = None
    lost_tower: bool = False

    @property
    def mixed(self) -> bool:
        """Whether ModelOpt's scheme gives each layer an algorithm of its own."""
        return self.algorithm == MIXED

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        tensors: Iterable[str],
        *,
        hf_quant_config: Mapping[str, Any] | None = None,
    ) -> "ServedModel":
        """Read what a checkpoint declares and holds.

        Args:
            config: Parsed config.json.
            tensors: The names of its tensors.
            hf_quant_config: ModelOpt's own file, which counts where config.json declares nothing.
        """
        family = family_of(config)
        # A nested row is that of the class with the tower.
        lost = (
            family is not None
            and family.nested
            and not any(name.startswith(family.vision_prefix) for name in tensors)
        )
        return cls(family, _algorithm(config, hf_quant_config), lost)

    @classmethod
    def read(cls, folder: Path) -> "ServedModel":
        """The same of a folder; of its weights only the index is read, or the single file's header.

        Raises:
            ScionError: There is no usable config.json, index or header.
        """
        shard_of, file = index_of(folder), folder / HF_QUANT_CONFIG
        names = read_header(folder / SINGLE).tensors if shard_of is None else shard_of
        hf_quant_config = read_object(file) if file.exists() else None
        return cls.of(read_object(folder / CONFIG), names, hf_quant_config=hf_quant_config)


def _algorithm(config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None) -> str | None:
    declared: Any = config.get("quantization_config")
    if declared is None and hf_quant_config is not None:
        producer: Any = hf_quant_config.get("producer")
        if not isinstance(producer, dict) or producer.get("name") != "modelopt":
            return None
        declared = hf_quant_config.get("quantization")
    elif not isinstance(declared, dict) or not str(declared.get("quant_method")).startswith(
        "modelopt"
    ):
        return None
    algorithm = declared.get("quant_algo") if isinstance(declared, dict) else None
    return algorithm.upper() if isinstance(algorithm, str) else ""
