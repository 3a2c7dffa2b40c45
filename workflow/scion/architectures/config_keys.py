"""The keys of a config.json, read with suspicion: it comes with the checkpoint, from anyone."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scion.common.errors import ScionError

# Far above the largest published vocabulary; products of a few of these stay cheap.
MAX_SIZE = 1 << 24


@dataclass(frozen=True)
class Keys:
    """An object in a config.json.

    A null counts as missing: transformers writes it for "derive this one".

    Args:
        values: The object.
        where: The file to name in errors.
        path: The object's place in the file, empty or with a dot at its end.
    """

    values: Mapping[str, Any]
    where: object
    path: str = ""

    def has(self, name: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(name) is not None

    def section(self, name: str) -> "Keys":
        """The object under a key.

        Raises:
            ScionError: No object is there.
        """
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise self.unusable(name)
        return Keys(value, self.where, f"{self.path}{name}.")

    def size(self, name: str, *, default: int | None = None) -> int:
        """A number of at least one.

        Raises:
            ScionError: The key is missing and has no default, or is no such number.
        """
        return self._number(name, default, least=1)

    def count(self, name: str, *, default: int | None = None) -> int:
        """A number that may be zero.

        Raises:
            ScionError: The key is missing and has no default, or is no such number.
        """
        return self._number(name, default, least=0)

    def flag(self, name: str) -> bool:
        """True or false; false where the key is missing.

        Raises:
            ScionError: Something else is there.
        """
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.unusable(name)
        return bool(value)

    def entries(self, name: str, kind: type) -> list[Any] | None:
        """A list whose members are all of one type; None where the key is missing.

        Raises:
            ScionError: Something else is there.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(type(entry) is not kind for entry in value):
            raise self.unusable(name)
        return value

    def unusable(self, name: str, *, wanted: str = "") -> ScionError:
        """The error for a key whose value the shapes can't follow from.

        Args:
            name: The key.
            wanted: What its value should be, where the name alone does not say.
        """
        found = reprlib.repr(self.values[name]) if name in self.values else "nothing"
        return ScionError(
            "config.json lacks what the tensors' shapes follow from",
            where=self.where,
            expected=f"a usable {self.path}{name}" + (f": {wanted}" if wanted else ""),
            found=found,
            hint="fetch config.json again from the checkpoint's repository",
        )

    def _number(self, name: str, default: int | None, *, least: int) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        # A bool is an int to Python; transformers refuses it as well.
        if type(value) is not int or not least <= value <= MAX_SIZE:
            raise self.unusable(name)
        return value
