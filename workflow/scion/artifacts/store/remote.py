"""Stores elsewhere, through fsspec (work in progress)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact


class Remote:
    """A store at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def record(self, recipe: str) -> dict[str, Any] | None:
        """The manifest of what a recipe gave, or None."""
        raise NotImplementedError

    def pull(
        self, manifest: Mapping[str, Any], folder: Path, here: Mapping[str, Path]
    ) -> list[str]:
        """Bring the files of an artifact into a folder; returns those that were not linked."""
        raise NotImplementedError

    def push(self, artifact: Artifact) -> None:
        """Give it an artifact that it lacks."""
        raise NotImplementedError
