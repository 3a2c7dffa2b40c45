"""The classes of transformers that a family is measured with, imported by their names."""

import importlib
from dataclasses import asdict
from types import SimpleNamespace

from scion.architectures.family import Family


def classes_of(family: Family) -> SimpleNamespace:
    """Import the classes of a family.

    Returns:
        The classes, under the names that `TransformersClasses` has for them, and the `modeling`
        module that they come from.

    Raises:
        ValueError: The family's row names none.
    """
    if family.transformers is None:
        raise ValueError(f"{family.title}: the family's row names no classes of transformers")
    names = asdict(family.transformers)
    # It also has the configuration classes, which it imports itself.
    modeling = importlib.import_module(names.pop("modeling"))
    classes = {role: getattr(modeling, name) for role, name in names.items()}
    return SimpleNamespace(modeling=modeling, **classes)
