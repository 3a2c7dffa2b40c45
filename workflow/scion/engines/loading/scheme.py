"""What a quantization declaration says, once an engine has read it.

Both files are a stranger's JSON, so every value may have any type: what an engine would fail on,
with whatever exception, is a problem here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scion.engines.releases import EngineRelease


@dataclass(frozen=True)
class SchemeProblem:
    """A declaration that an engine refuses, or reads in another way than it is written.

    Attributes:
        refused: Whether the engine fails to start; else it goes on with another reading.
        where: The file and key at fault.
        text: What the engine does, in one sentence.
        source: Where that can be read.
    """

    refused: bool
    where: str
    text: str
    source: str


@dataclass(frozen=True)
class Group:
    """One of compressed-tensors' groups.

    Attributes:
        targets: The layers or classes it is for.
        algorithm: What its layers are built as.
    """

    targets: Sequence[str]
    algorithm: str


@dataclass(frozen=True)
class Scheme:
    """A declaration as an engine has read it.

    Attributes:
        method: `modelopt`, `modelopt_mixed`, `compressed-tensors`, `fp8`, or `none` where the
            engine takes the checkpoint for an unquantized one.
        algorithm: What a layer that is not excluded is built as, where that is one for all.
        exclude: The exclusion list.
        layers: The algorithm by module, of a mixed-precision declaration.
        groups: The groups of a compressed-tensors declaration.
    """

    method: str
    algorithm: str | None = None
    exclude: Sequence[str] = ()
    layers: Mapping[str, str] = field(default_factory=dict)
    groups: Sequence[Group] = ()


class Refused(Exception):
    """An engine refuses the declaration.

    Args:
        where: The file and key at fault.
        text: What the engine does.
    """

    def __init__(self, where: str, text: str) -> None:
        self.where = where
        self.text = text
        super().__init__(text)


class NotModelled(Exception):
    """A declaration that engines may well read, of a method that is not modelled here.

    Args:
        method: The method, or the algorithm.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        super().__init__(method)


def mapping(value: object, *, where: str, release: EngineRelease) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        Refused: It is something else.
    """
    if not isinstance(value, dict):
        raise Refused(where, f"{release} fails on {where}, which is no JSON object")
    return value


def names(value: object, *, where: str, release: EngineRelease) -> list[str]:
    """A list of module names.

    Raises:
        Refused: It is something else.
    """
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Refused(where, f"{release} fails on {where}, which is no list of strings")
    return value


def recipes(value: object, *, where: str, release: EngineRelease) -> dict[str, str]:
    """The upper-case algorithm by module of a mixed-precision declaration.

    Raises:
        Refused: There is none, or an entry without algorithm.
    """
    if not isinstance(value, dict) or not value:
        raise Refused(where, f"{release} refuses MIXED_PRECISION without a non-empty {where}")
    algorithms: dict[str, str] = {}
    for module, recipe in value.items():
        algorithm = recipe.get("quant_algo") if isinstance(recipe, dict) else None
        if not isinstance(algorithm, str):
            raise Refused(
                f"{where}.{module}", f"{release} fails on {module}, which has no quant_algo"
            )
        algorithms[module] = algorithm.upper()
    return algorithms


def groups(value: Mapping[str, Any], *, where: str, release: EngineRelease) -> list[Group]:
    """The groups of a compressed-tensors declaration, those for attention's cache left out.

    Raises:
        Refused: A group has no targets or no weights.
    """
    chosen: list[Group] = []
    for name, raw in mapping(value.get("config_groups", {}), where=where, release=release).items():
        group = mapping(raw, where=f"{where}.{name}", release=release)
        targets = names(group.get("targets"), where=f"{where}.{name}.targets", release=release)
        weights = mapping(group.get("weights"), where=f"{where}.{name}.weights", release=release)
        if len(targets) == 1 and targets[0].endswith("Attention"):
            continue
        chosen.append(Group(targets, _group_algorithm(weights, group.get("input_activations"))))
    return chosen


def _group_algorithm(weights: Mapping[str, Any], activations: object) -> str:
    """What a group's layers are built as, in ModelOpt's words where it has some."""
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    if kind == "float" and bits == 4 and weights.get("group_size") == 16:
        return "NVFP4" if activations else "W4A16_NVFP4"
    if kind == "float" and bits == 8:
        return "FP8"
    return f"{kind}{bits}".upper()


def weights_only(declared: Mapping[str, Any]) -> bool:
    """Whether there are groups, and each declares no activations."""
    config_groups = declared.get("config_groups")
    return (
        isinstance(config_groups, dict)
        and bool(config_groups)
        and all(
            isinstance(group, dict) and group.get("input_activations") is None
            for group in config_groups.values()
        )
    )
