"""A published release made again from what it says of itself, and held against what was published.

`reproduce/reproduce.json` holds the whole configuration, with sources at their commits, the Scion
and the locks that made the release, and the digest of its weights. All of that is believed only as
far as the attestations follow from the manifests; whether the weights come out the same is seen.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scion.artifacts.artifact import Artifact
from scion.artifacts.environments import locks_of
from scion.artifacts.file_tree import FileTree, read_object
from scion.artifacts.manifest import MANIFEST, check_manifest
from scion.artifacts.release_layout import (
    PROVENANCE,
    REPRODUCTION,
    TENSORS,
    is_attested,
    sealed_stages,
    weights_stage,
)
from scion.artifacts.software import Software, this_software
from scion.audit.attested import audit_attestations
from scion.common.errors import ScionError
from scion.common.files import replace_link, write_json

CONFIG = "release.yaml"
_LINKED = ("resources", "envs")


@dataclass(frozen=True)
class PublishedRecipe:
    """What a release says of how it was made.

    Attributes:
        name: The release, as it was asked for, with its commit on a hub.
        root: The root digest of its seal.
        stage: The stage that made its weights.
        weights: Their content digest.
        tensors: Its tensor table: digest by name.
        settings: The configuration of the workflow.
        made_by: The Scion that rendered its card.
        locks: The digest of the locked environment by stage.
    """

    name: str
    root: str
    stage: str
    weights: str
    tensors: Mapping[str, str]
    settings: Mapping[str, Any]
    made_by: Software
    locks: Mapping[str, str]

    @classmethod
    def read(cls, tree: FileTree) -> "PublishedRecipe":
        """Read it out of a release.

        Raises:
            ScionError: It has no seal, no attestations, or ones that its manifests contradict.
        """
        hint = f"scion audit {tree.name}"
        sealed = read_object(tree, MANIFEST)
        check_manifest(sealed, where=tree.place(MANIFEST), hint=hint)
        if not is_attested(sealed):
            raise ScionError(
                "the release does not say how to make it again",
                where=tree.name,
                expected=f"{REPRODUCTION}, which attestations bring",
                found="a seal without attestations",
                hint="ask its publisher, or audit it by its source: scion audit --source",
            )
        attested = audit_attestations(tree)
        if attested is not None and attested.faults:
            fault = attested.faults[0]
            raise ScionError(
                "what the release says of how it was made contradicts its manifests",
                where=f"{tree.name}: {fault.subject}",
                expected=fault.expected,
                found=fault.found,
                hint=hint,
            )
        told = read_object(tree, REPRODUCTION)
        stage = weights_stage(sealed_stages(sealed))
        made = read_object(tree, f"{PROVENANCE}/{stage}.json")
        table = read_object(tree, TENSORS)
        try:
            return cls(
                name=tree.name,
                root=sealed["root"],
                stage=stage,
                weights=made["content"],
                tensors={name: row["sha256"] for name, row in table.items()},
                settings=dict(told["settings"]),
                made_by=Software(**told["environment"]["scion"]),
                locks=dict(told["environment"]["locks"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ScionError(
                "what the release says of how it was made can't be read",
                where=tree.place(REPRODUCTION),
                expected="settings, and environment with scion and locks",
                found=repr(error),
                hint=hint,
            ) from error

    def lines(self) -> list[str]:
        """What it says, for people."""
        sources = {key: self.settings.get(key) for key in ("source", "donor")}
        return [
            f"release: {self.name}, root {self.root}",
            *(f"{key}: {place}" for key, place in sources.items() if place),
            f"weights: {self.weights}, {len(self.tensors)} tensors, made by {self.stage}",
            f"made by: Scion {self.made_by}",
            f"here: Scion {this_software()}",
        ]


@dataclass(frozen=True)
class Reproduced:
    """What came of making a release again.

    Attributes:
        weights: Content digest of what was made here.
        differing: Tensors with other bytes, or that one of the two lacks.
        locks: Stages that ran in another locked environment than the publisher's.
    """

    weights: str
    differing: tuple[str, ...]
    locks: tuple[str, ...]

    def is_equal(self, recipe: PublishedRecipe) -> bool:
        """Whether the weights are the published ones, bit by bit."""
        return self.weights == recipe.weights


def checkout() -> Path:
    """The folder of the workflow that this package belongs to.

    Raises:
        ScionError: It was installed alone.
    """
    folder = Path(os.environ.get("SCION_CODE", Path(__file__).parents[3]))
    if not (folder / "Snakefile").is_file():
        raise ScionError(
            "a release is made by the workflow, and this is Scion alone",
            where=folder,
            expected="a checkout of Scion, with its Snakefile",
            found="none",
            hint="clone Scion at the commit that the release names, make setup, and run "
            ".venv/bin/scion reproduce there",
        )
    return folder


def prepare(recipe: PublishedRecipe, folder: Path) -> None:
    """Set up a folder to run the workflow in: the configuration, and a store of its own.

    Raises:
        ScionError: Something else is there already.
    """
    config = folder / CONFIG
    if folder.exists() and any(folder.iterdir()) and not config.exists():
        raise ScionError(
            "the folder to work in holds something else",
            where=folder,
            expected="an empty folder, or one of an earlier run of the same",
            found=", ".join(sorted(path.name for path in folder.iterdir())[:6]),
            hint="name another: --folder",
        )
    # Nothing that this machine has made before may answer for it.
    settings = {**recipe.settings, "store": ["results/.store"]}
    if config.exists() and yaml.safe_load(config.read_text()) != settings:
        raise ScionError(
            "the folder to work in is another release's",
            where=config,
            expected=f"the configuration of {recipe.name}",
            found="another one",
            hint="name another: --folder",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in _LINKED:
        replace_link(checkout() / name, folder / name)
    # JSON is YAML, and has no forms that are read in two ways.
    write_json(config, settings)


def command(recipe: PublishedRecipe, python: str, options: list[str]) -> list[str]:
    """The command line that makes the weights; to be run in the prepared folder."""
    home = checkout()
    return [
        *(python, "-m", "snakemake", "--snakefile", str(home / "Snakefile")),
        *("--workflow-profile", str(home / "profiles/default")),
        *("--configfile", CONFIG, "--until", recipe.stage),
        *options,
    ]


def outcome(recipe: PublishedRecipe, folder: Path) -> Reproduced:
    """Hold what was made against what was published.

    Raises:
        ScionError: Nothing was made.
    """
    results = folder / "results" / recipe.settings["release"]
    made = Artifact.open(results / recipe.stage)
    here = {name: row["sha256"] for name, row in made.tensors().items()}
    names = here.keys() | recipe.tensors.keys()
    differing = (name for name in names if here.get(name) != recipe.tensors.get(name))
    manifests = {
        stage: Artifact.open(results / stage).manifest
        for stage in recipe.locks
        if (results / f"{stage}.json").exists()
    }
    other = (
        stage
        for stage, manifest in manifests.items()
        if locks_of(manifest["environment"]) != recipe.locks[stage]
    )
    return Reproduced(made.content, tuple(sorted(differing)), tuple(sorted(other)))
