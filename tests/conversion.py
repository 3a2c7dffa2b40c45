"""The embedded pair, and the conversion stages run over it, from fetch_source to verify_release."""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.store.store import Store

ENVIRONMENT = "sha256:tests"
SAMPLES = 4


@dataclass(frozen=True)
class Pico:
    """`resources/pico`."""

    folder: Path

    @property
    def agent(self) -> Path:
        """The source: a fine-tune with broken keys and without MTP head."""
        return self.folder / "pico-agent"

    @property
    def vision(self) -> Path:
        """A source with sound keys and a vision tower that was trained; without MTP head."""
        return self.folder / "pico-vision"

    @property
    def pictures(self) -> Path:
        """Questions about pictures as JSON lines."""
        return self.folder.parent / "prompts/pictures.jsonl"

    @property
    def base(self) -> Path:
        """The donor."""
        return self.folder / "pico-base"

    @property
    def calibration(self) -> Path:
        """Chats as JSON lines."""
        return self.folder / "calibration.jsonl"


@dataclass(frozen=True)
class Conversion:
    """The artifacts by stage; `folder` holds them all, each under its stage's name."""

    folder: Path
    fetch_source: Artifact
    fetch_donor: Artifact
    lint_source: Artifact
    fix_keys: Artifact
    extract_text: Artifact
    quantize_nvfp4: Artifact
    graft_mtp: Artifact
    verify_release: Artifact

    @classmethod
    def open(cls, folder: Path) -> "Conversion":
        """What `convert` has made in a folder."""
        store = Store.open([str(folder / ".store")])
        stages = [field.name for field in fields(cls) if field.name != "folder"]
        made = {stage: store.open_pointer(folder / f"{stage}.json") for stage in stages}
        return cls(folder, **made)


def copied(artifact: Artifact, folder: Path) -> Artifact:
    """A copy of an artifact outside of its store, to be damaged."""
    shutil.copytree(artifact.folder, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Artifact(folder, artifact.manifest)


def convert(
    pico: Pico,
    folder: Path,
    *,
    source: Path | None = None,
    text_only: bool = True,
    samples: int = SAMPLES,
    **quantization: Any,
) -> Conversion:
    """Run the conversion stages in this process, with `samples` calibration samples.

    Args:
        pico: The pair.
        folder: Where artifacts go.
        source: The source; None for pico-agent.
        text_only: False keeps the vision tower.
        samples: Of the pair's own calibration set.
        quantization: Further settings of the section.
    """
    # Importing ModelOpt takes seconds, which tests without it need not wait.
    from scion.lint.config import Lint
    from scion.quantization.config import Calibration, CalibrationSet, Quantization
    from scion.stages.extract_text import extract_text
    from scion.stages.fetch_donor import fetch_donor
    from scion.stages.fetch_source import fetch_source
    from scion.stages.fix_keys import fix_keys
    from scion.stages.graft_mtp import graft_mtp
    from scion.stages.lint_source import lint_source
    from scion.stages.quantize_nvfp4 import quantize_nvfp4
    from scion.stages.verify_release import verify_release

    calibration_set = CalibrationSet(dataset=str(pico.calibration), samples=samples)
    calibration = Calibration(sets=(calibration_set,))
    # Not the default recipe: tests of the other stages need not wait for a search.
    wanted = {"recipe": "nvfp4_default", "calibration": calibration, "device": "cpu"}
    settings = Quantization.model_validate({**wanted, "max_shard_megabytes": 1, **quantization})
    env = ENVIRONMENT
    fetched = fetch_source(
        location=str(source or pico.agent),
        output=Output.at(folder / "fetch_source"),
        environment=env,
    )
    donor = fetch_donor(
        location=str(pico.base), output=Output.at(folder / "fetch_donor"), environment=env
    )
    found = lint_source(
        source=fetched, output=Output.at(folder / "lint_source"), settings=Lint(), environment=env
    )
    fixed = fix_keys(source=fetched, output=Output.at(folder / "fix_keys"), environment=env)
    text = extract_text(
        fixed=fixed, output=Output.at(folder / "extract_text"), text_only=text_only, environment=env
    )
    quantized = quantize_nvfp4(
        text=text, output=Output.at(folder / "quantize_nvfp4"), settings=settings, environment=env
    )
    release = graft_mtp(
        quantized=quantized,
        text=text,
        donor=donor,
        output=Output.at(folder / "graft_mtp"),
        environment=env,
    )
    report = verify_release(
        release=release,
        text=text,
        donor=donor,
        output=Output.at(folder / "verify_release"),
        settings=Lint(),
        environment=env,
    )
    return Conversion(folder, fetched, donor, found, fixed, text, quantized, release, report)
