"""`reproduce/reproduce.json`: all that somebody needs who wants to make a release again.

Releases that can be made again carry a file of this name and the tag `reproducible`; `version`,
`timestamp`, `model`, `model_commit`, `environment`, `settings` and `weights_sha256` are where
readers of such files look for them. `settings` is a configuration file of the workflow.
"""

from typing import Any

from scion.artifacts.environments import locks_of
from scion.report.attestation.sealed_release import SealedRelease

VERSION = "1"


def reproduction(release: SealedRelease) -> dict[str, Any]:
    """The file, as JSON.

    Args:
        release: What is to be made again.
    """
    origins = release.origins()
    source, commit = origins["source"]
    donor, donor_commit = origins.get("donor", (None, None))
    return {
        "version": VERSION,
        "tool": "scion",
        "timestamp": release.sealed_at.isoformat(),
        "model": source,
        "model_commit": commit,
        "donor": donor,
        "donor_commit": donor_commit,
        "environment": {
            "scion": release.made_by.record(),
            "locks": {
                stage: locks_of(manifest["environment"])
                for stage, manifest in release.manifests.items()
            },
        },
        "settings": release.config,
        "weights": release.weights["content"],
        "weights_sha256": {name: entry["sha256"] for name, entry in release.shards.items()},
    }
