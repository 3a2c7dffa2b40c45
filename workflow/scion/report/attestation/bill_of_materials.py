"""The release as a CycloneDX ML-BOM: the model, what it came from, and how well it did.

Form: https://cyclonedx.org/docs/1.6/json/. The library writes components, hashes and pedigree; it
knows no model cards (its issue 912), so that part is put in beside it.
"""

# Its classes are made by a decorator that hides their parameters from pyright.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

import json
from collections.abc import Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.report.attestation.sealed_release import SealedRelease
from scion.report.measurements import MEASUREMENTS

_MODEL = "release"


def bill_of_materials(release: SealedRelease) -> dict[str, Any]:
    """The ML-BOM, as JSON.

    Args:
        release: What is attested.
    """
    card = release.config["card"]
    parts = [*_files(release), *_inputs(release)]
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, release.weights["root"]), components=parts)
    bom.metadata.timestamp = release.sealed_at
    scion = Component(name="scion", version=str(release.made_by), type=ComponentType.APPLICATION)
    bom.metadata.tools.components.add(scion)
    model = Component(
        name=card["repository"],
        description=card["summary"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_MODEL,
        licenses=[LicenseFactory().make_from_string(card["license"])],
        pedigree=Pedigree(ancestors=list(_ancestors(release))),
        properties=[Property(name="scion:weights", value=release.weights["content"])],
    )
    bom.metadata.component = model
    bom.register_dependency(model, parts)
    found = json.loads(JsonV1Dot6(bom).output_as_string())
    found["metadata"]["component"]["modelCard"] = _model_card(release)
    return found


def _files(release: SealedRelease) -> Iterator[Component]:
    for name, entry in release.shards.items():
        yield _component(ComponentType.FILE, name, entry["sha256"])


def _inputs(release: SealedRelease) -> Iterator[Component]:
    """Data sets and templates that stages have read, and the quantizer."""
    for name, sha256 in release.plain_files().items():
        yield _component(ComponentType.DATA, name, sha256)
    quantizer = release.manifests["quantize_nvfp4"]["facts"]["quantizer"]
    yield Component(
        name=quantizer["name"],
        version=quantizer["version"],
        type=ComponentType.LIBRARY,
        bom_ref=quantizer["name"],
        purl=PackageURL("pypi", name=quantizer["name"], version=quantizer["version"]),
    )


def _ancestors(release: SealedRelease) -> Iterator[Component]:
    """Source and donor."""
    for role, (location, _) in release.origins().items():
        found = parse_location(location)
        on_hub = isinstance(found, HubRepository)
        owner, _, name = found.name.partition("/") if on_hub else ("", "", location)
        yield Component(
            name=found.name if on_hub else location,
            version=found.revision if on_hub else None,
            description=f"the release's {role}",
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=role,
            purl=PackageURL("huggingface", owner, name, found.revision) if on_hub else None,
            properties=[
                Property(name="scion:content", value=release.manifests[f"fetch_{role}"]["content"])
            ],
        )


def _component(kind: ComponentType, name: str, sha256: str) -> Component:
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]
    return Component(name=name, type=kind, bom_ref=name, hashes=hashes)


def _model_card(release: SealedRelease) -> dict[str, Any]:
    recipe = release.manifests["quantize_nvfp4"]["facts"]["recipe"]
    metrics = [
        {"type": fact, "value": str(value), "slice": stage}
        for stage in MEASUREMENTS
        if stage in release.manifests
        for fact, value in release.manifests[stage]["facts"].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return {
        "modelParameters": {
            "task": "text-generation" if release.config["text_only"] else "image-text-to-text",
            "architectureFamily": "transformer",
            "datasets": [{"ref": name} for name in release.plain_files() if name.endswith("jsonl")],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {
            "technicalLimitations": [f"{recipe['four_bits']} weights, recipe {recipe['name']}"]
        },
    }
