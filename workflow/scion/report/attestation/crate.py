"""The release as a Workflow Run RO-Crate: its files, the workflow, and each stage as an action.

Forms: https://w3id.org/ro/crate/1.1 and https://w3id.org/ro/wfrun/workflow/0.5.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from scion.artifacts.release_layout import CARD, REPRODUCTION, WORKFLOW, stages_before
from scion.report.attestation.sealed_release import SealedRelease

VERSION = "1.1"
# The library tells no more of what it adds: one entity, or several.
Entity = Any
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
"""What the crate conforms to, each in the version that the others are made for."""
# Not among the terms of RO-Crate 1.1.
_SHA256 = "https://w3id.org/ro/terms/workflow-run#sha256"
_MEDIA_TYPE = "text/plain"
_MEDIA_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".svg": "image/svg+xml",
    ".pem": "application/x-pem-file",
    ".safetensors": "application/octet-stream",
}


def crate(release: SealedRelease) -> dict[str, Any]:
    """`ro-crate-metadata.json`, as JSON.

    Args:
        release: What is described.
    """
    made = ROCrate(version=VERSION)
    made.metadata.extra_terms["sha256"] = _SHA256
    publisher = _describe(made, release)
    named = ((name, entry) for name, entry in release.files.items() if name != WORKFLOW)
    files = {name: _file(made, name, entry) for name, entry in named}
    configuration = _file(made, REPRODUCTION, {})
    origins = {
        role: _entity(made, f"#{role}", "PropertyValue", name=role, value=location)
        for role, (location, _) in release.origins().items()
    }
    workflow: Entity = made.add_workflow(
        dest_path=WORKFLOW,
        main=True,
        lang="snakemake",
        properties={
            "name": "Scion",
            "version": release.made_by.version,
            "encodingFormat": _MEDIA_TYPE,
        },
    )
    workflow["input"] = [
        _slot(made, "configuration", "File", configuration),
        *(_slot(made, role, "Text", origin) for role, origin in origins.items()),
    ]
    workflow["output"] = _slot(made, "card", "File", files[CARD])
    run: Entity = made.add_action(
        workflow,
        "#run",
        object=[configuration, *origins.values()],
        result=list(files.values()),
        properties={
            "name": f"making {release.title}",
            "description": "one run of the workflow, or several",
            "endTime": release.sealed_at.isoformat(),
        },
    )
    run["agent"] = publisher
    root: Entity = made.root_dataset
    root["mentions"] = [run, *_steps(made, release, publisher)]
    return made.metadata.generate()


def _describe(made: ROCrate, release: SealedRelease) -> Entity:
    """Say what the whole is; who publishes it."""
    card = release.config["card"]
    owner = card["repository"].partition("/")[0]
    page = f"https://huggingface.co/{owner}"
    made.publisher = _entity(made, page, "Organization", name=owner, url=page)
    root: Entity = made.root_dataset
    root["author"] = made.publisher
    made.name, made.description = release.title, card["summary"]
    made.license = card["license"]
    made.datePublished = release.sealed_at
    root["conformsTo"] = [
        _entity(made, uri, "CreativeWork", name=name, version=uri.rpartition("/")[2])
        for uri, name in PROFILES.items()
    ]
    return made.publisher


def _steps(made: ROCrate, release: SealedRelease, agent: Entity) -> list[Entity]:
    """An action for each stage, from the artifacts before it to its own."""
    artifacts = {
        stage: _entity(
            made, f"#artifact-{stage}", "PropertyValue", name=stage, value=manifest["content"]
        )
        for stage, manifest in release.manifests.items()
    }
    steps: list[Entity] = []
    for stage, manifest in release.manifests.items():
        module = f"scion.stages.{stage}"
        tool = _entity(
            made,
            f"#{module}",
            "SoftwareApplication",
            name=module,
            identifier=manifest["code"],
            softwareVersion=release.made_by.version,
        )
        before = stages_before(manifest)
        inputs = [artifact for name, artifact in artifacts.items() if name in before]
        steps.append(
            made.add_action(
                tool,
                f"#{stage}",
                object=_one_or_all(inputs),
                result=artifacts[stage],
                properties={"name": stage, "description": f"the workflow's stage {stage}"},
            )
        )
        steps[-1]["agent"] = agent
    return steps


def _file(made: ROCrate, name: str, entry: Mapping[str, Any]) -> Entity:
    kind = _MEDIA_TYPES.get(PurePosixPath(name).suffix, _MEDIA_TYPE)
    told: dict[str, Any] = {"name": name, "encodingFormat": kind}
    if entry:
        told |= {"contentSize": str(entry["size"]), "sha256": entry["sha256"]}
    return made.add_file(dest_path=name, properties=told)


def _slot(made: ROCrate, name: str, kind: str, value: Entity) -> Entity:
    """A parameter of the workflow, with what it was."""
    slot: Entity = made.add_formal_parameter(name, kind, identifier=f"#parameter-{name}")
    slot["workExample"] = value
    value["exampleOfWork"] = slot
    return slot


def _one_or_all(entities: list[Entity]) -> Entity | list[Entity]:
    """One by itself, as the form has it."""
    return entities[0] if len(entities) == 1 else entities


def _entity(made: ROCrate, uri: str, kind: str, **properties: str) -> Entity:
    return made.add(ContextEntity(made, uri, {"@type": kind, **properties}))
