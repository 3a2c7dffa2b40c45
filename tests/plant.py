"""Put measured results in the place of those that servers would give, in a clone of this project.

    python tests/plant.py CLONE RELEASE [OPTION ...]

RELEASE is a folder of results that has `graft_mtp`; the options are those of `snakemake`. What is
planted is what the tests of the report plant. Its recipe is not that of the real stages. Another
release that asks for the same finds the same artifacts in the store.
"""

import sys
from pathlib import Path

import measured
from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.store.store import Store


def main() -> None:
    """Plant all results whose pointers are missing."""
    clone, release = Path(sys.argv[1]), Path(sys.argv[2])
    store = Store.open([str(clone / "results/.store")])
    pointers = ProjectCopy(clone).pointers(*sys.argv[3:])
    outputs = {stage: Output(pointer, store) for stage, pointer in pointers.items()}
    content = {stage: result for stage, result in measured.results().items() if stage in outputs}
    graft = Artifact.open(release / "graft_mtp")
    measured.artifacts(content, release=graft, folder=clone, outputs=outputs)


if __name__ == "__main__":
    main()
