"""All attestations of a release: written when it is sealed, and held against it by an audit."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scion.artifacts.release_layout import BOM, CRATE, REPRODUCTION, STATEMENT
from scion.common.files import to_json
from scion.report.attestation.bill_of_materials import bill_of_materials
from scion.report.attestation.crate import crate
from scion.report.attestation.provenance import statement
from scion.report.attestation.reproduction import reproduction
from scion.report.attestation.sealed_release import SealedRelease

ATTESTATIONS: Mapping[str, Callable[[SealedRelease], dict[str, Any]]] = {
    STATEMENT: statement,
    BOM: bill_of_materials,
    CRATE: crate,
    REPRODUCTION: reproduction,
}
"""By file what derives it. Each follows from the manifests alone, so that others can do so, too."""


_NOTHING = object()


def write_attestations(release: SealedRelease, folder: Path) -> None:
    """Write every attestation of a release into its folder."""
    for name, derive in ATTESTATIONS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(to_json(derive(release)))


def differences(found: object, expected: object, at: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two JSON values differ: the dotted place, what was expected there, and what is there.

    Args:
        found: The value that is judged.
        expected: What it should be.
        at: Where both stand in a larger value.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            place = f"{at}.{key}" if at else str(key)
            yield from differences(found.get(key, _NOTHING), expected.get(key, _NOTHING), place)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differences(one, other, f"{at}[{index}]")
    # To Python, true is 1.
    elif found != expected or type(found) is not type(expected):
        yield at, _brief(expected), _brief(found)


def _brief(value: object) -> str:
    text = json.dumps(value) if value is not _NOTHING else "nothing"
    return text if len(text) <= 80 else f"{text[:79]}…"
