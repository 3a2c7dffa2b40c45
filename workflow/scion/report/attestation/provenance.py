"""The release as an in-toto statement with SLSA provenance.

Every file is a subject. What was asked for is the configuration; what it was made from are the
files of source and donor, the data sets and the locks of the environments; each stage's manifest is
a byproduct. Forms: https://in-toto.io/Statement/v1 and https://slsa.dev/spec/v1.0/provenance.
"""

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement

from scion.artifacts.environments import locks_of
from scion.artifacts.release_layout import PROVENANCE
from scion.common.digest import hex_digits
from scion.report.attestation.sealed_release import SealedRelease

# Its module makes its classes as it is imported.
_Provenance: Any = vars(provenance_pb2)["Provenance"]

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:scion:release:1"
"""SLSA's buildType: the workflow that the guide of attestations describes."""


def statement(release: SealedRelease) -> dict[str, Any]:
    """The statement, as JSON.

    Args:
        release: What is attested.
    """
    manifests = release.manifests
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"config": release.config},
            "internalParameters": {
                stage: {"code": manifest["code"], "environment": manifest["environment"]}
                for stage, manifest in manifests.items()
            },
            "resolvedDependencies": list(_dependencies(release)),
        },
        "runDetails": {
            "builder": {"id": release.builder, "version": {"scion": str(release.made_by)}},
            "metadata": {
                "invocationId": release.weights["root"],
                "finishedOn": release.sealed_at.isoformat(),
            },
            "byproducts": [
                _resource(f"{PROVENANCE}/{stage}.json", manifest["root"])
                for stage, manifest in manifests.items()
            ],
        },
    }
    # Refuses a field that SLSA does not know.
    checked = MessageToDict(ParseDict(predicate, _Provenance()))
    subjects = [
        ResourceDescriptor(name, digest={"sha256": entry["sha256"]}).pb
        for name, entry in release.files.items()
    ]
    found = Statement(subjects, PREDICATE_TYPE, checked)
    found.validate()
    # The library gives the keys of a struct in another order in each process.
    return json.loads(json.dumps(MessageToDict(found.pb), sort_keys=True))


def _dependencies(release: SealedRelease) -> Iterator[dict[str, Any]]:
    made_by = release.made_by
    if made_by.url is not None and made_by.commit is not None:
        yield {
            "name": "scion",
            "uri": f"git+{made_by.url}@{made_by.commit}",
            "digest": {"gitCommit": made_by.commit},
        }
    for role, (location, commit) in release.origins().items():
        if commit is not None:
            yield {"name": role, "uri": location, "digest": {"gitCommit": commit}}
        for name, entry in release.manifests[f"fetch_{role}"]["files"].items():
            yield _resource(f"{role}/{name}", entry["sha256"])
    for name, sha256 in release.plain_files().items():
        yield _resource(name, sha256)
    locks = {locks_of(manifest["environment"]) for manifest in release.manifests.values()}
    for digest in sorted(locks):
        yield _resource("environment", digest)


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": hex_digits(digest)}}
