"""The embedded pair, and the conversion stages run over it, from fetch_source to verify_release."""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.store.store import Store

if TYPE_CHECKING:
    from scion.checkpoint.own_head import OwnHead

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
    """Run the conversion stages over the pair, with `samples` calibration samples.

    Args:
        pico: The pair.
        folder: Where artifacts go.
        source: The source; None for pico-agent.
        text_only: False keeps the vision tower.
        samples: Of the pair's own calibration set.
        quantization: Further settings of the section.
    """
    made = convert_stages(
        source or pico.agent,
        folder,
        donor=pico.base,
        head="absent",
        calibration=(str(pico.calibration), samples),
        text_only=text_only,
        **quantization,
    )
    return Conversion(folder, **made)


def convert_stages(
    source: Path,
    folder: Path,
    *,
    donor: Path | None,
    head: "OwnHead",
    calibration: tuple[str, int],
    text_only: bool = True,
    **quantization: Any,
) -> dict[str, Artifact]:
    """Run the conversion stages in this process.

    Args:
        source: The bf16 checkpoint.
        folder: Where artifacts go, each under its stage's name.
        donor: Where the MTP head comes from, unless it is the source's own or there is none.
        head: What becomes of the source's own; see `scion.checkpoint.own_head.OwnHead`.
        calibration: A set, and the number of its samples.
        text_only: False keeps the vision tower.
        quantization: Further settings of the section.

    Returns:
        The artifacts by stage; without a donor there is no fetch_donor.
    """
    # Importing ModelOpt takes seconds, which tests without it need not wait.
    from scion.checkpoint.source_parts import Kept
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

    dataset, samples = calibration
    sets = Calibration(sets=(CalibrationSet(dataset=dataset, samples=samples),))
    # Not the default recipe: tests of the other stages need not wait for a search.
    wanted = {"recipe": "nvfp4_default", "calibration": sets, "device": "cpu"}
    settings = Quantization.model_validate({**wanted, "max_shard_megabytes": 1, **quantization})
    env, made = ENVIRONMENT, dict[str, Artifact]()

    def output(stage: str) -> Output:
        return Output.at(folder / stage)

    made["fetch_source"] = fetch_source(
        location=str(source), output=output("fetch_source"), environment=env
    )
    if donor is not None:
        made["fetch_donor"] = fetch_donor(
            location=str(donor), output=output("fetch_donor"), environment=env
        )
    made["lint_source"] = lint_source(
        source=made["fetch_source"],
        output=output("lint_source"),
        settings=Lint(),
        environment=env,
    )
    made["fix_keys"] = fix_keys(
        source=made["fetch_source"], output=output("fix_keys"), environment=env
    )
    made["extract_text"] = text = extract_text(
        fixed=made["fix_keys"], output=output("extract_text"), environment=env
    )
    made["quantize_nvfp4"] = quantize_nvfp4(
        text=text, output=output("quantize_nvfp4"), settings=settings, environment=env
    )
    made["graft_mtp"] = graft_mtp(
        quantized=made["quantize_nvfp4"],
        fixed=made["fix_keys"],
        donor=made.get("fetch_donor"),
        kept=Kept(tower=not text_only, head=head),
        output=output("graft_mtp"),
        environment=env,
    )
    made["verify_release"] = verify_release(
        release=made["graft_mtp"],
        fixed=made["fix_keys"],
        donor=made.get("fetch_donor"),
        output=output("verify_release"),
        settings=Lint(),
        environment=env,
    )
    return made
