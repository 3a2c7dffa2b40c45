"""What a sealed release says of how it was made: words to hold it to, not proofs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from scion.artifacts.file_tree import FileTree, read_object
from scion.artifacts.release_layout import GRAFTED, PROVENANCE, TENSORS
from scion.common.errors import ScionError
from scion.quantization.recipe_table import RECIPES, RecipeRow

_QUANTIZED = "quantize_nvfp4"


@dataclass(frozen=True)
class Claims:
    """What manifests and tensor table of a release say.

    Attributes:
        sealed: Whether it has a manifest.
        recipe: The recipe of its NVFP4 weights; None where none is recorded.
        head: Where the release says that its MTP head comes from: `source`, `donor` or `none`.
        checksums: Of block scales that calibration chose, by module.
        trained: By tensor of a trained head the SHA-256 of what training began with.
    """

    sealed: bool = False
    recipe: RecipeRow | None = None
    head: str | None = None
    checksums: Mapping[str, float] = field(default_factory=dict[str, float])
    trained: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls, tree: FileTree) -> "Claims":
        """Read them; what can't be read, or has another form, claims nothing."""
        facts = _section(_object(tree, f"{PROVENANCE}/{_QUANTIZED}.json"), "facts")
        name = _section(facts, "recipe").get("name")
        sums = {
            module: float(value)
            for module, value in _section(facts, "scale_checksums").items()
            if isinstance(value, int | float)
        }
        origins = {
            tensor: _section({"row": row}, "row").get("origin")
            for tensor, row in _object(tree, TENSORS).items()
        }
        trained = {
            tensor: str(origin.get("sha256"))
            for tensor, origin in origins.items()
            if isinstance(origin, dict) and origin.get("from") == "trained"
        }
        row = RECIPES.get(name) if isinstance(name, str) else None
        origin = _section(_object(tree, f"{PROVENANCE}/{GRAFTED}.json"), "facts").get("mtp_origin")
        head = origin if isinstance(origin, str) else None
        return cls(sealed=True, recipe=row, head=head, checksums=sums, trained=trained)


def _object(tree: FileTree, name: str) -> Mapping[str, Any]:
    try:
        return read_object(tree, name)
    except ScionError:
        return {}


def _section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
