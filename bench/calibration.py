"""What does it matter which samples a release is calibrated with?

The embedded agent is quantized with the same number of samples each time: agent dialogues with tool
calls through the chat template, plain text, half of each, and all of both. Then each reads held-out
dialogues and held-out text, whose divergence from bf16 is compared document by document with that
of the release that was calibrated with dialogues alone. Two recipes: maxima, which take nothing
from the samples but activation scales, and the local Hessian, whose search is weighted by them.

The model is tiny and its plain text is generated from a few templates, so the size of an effect is
its own. Progress goes to stderr; a table and one line of JSON to stdout. Nothing stays on disk.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from support.measure import machine, unwind_when_ended

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import Checkpoint
from scion.common.devices import one_thread
from scion.common.text import change, small
from scion.evaluation.chats import read_chats
from scion.evaluation.intervals import positive_ratio, ratio_of_sums
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights
from scion.evaluation.quality.documents import Document, read_texts
from scion.evaluation.quality.full_vocabulary import Reference, Sums, score
from scion.evaluation.quality.offline_documents import read_documents
from scion.quantization.config import Calibration, CalibrationSet, Quantization
from scion.quantization.variants import with_head
from scion.stages.extract_text import extract_text
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.quantize_nvfp4 import quantize_nvfp4

PICO = Path(__file__).parents[1] / "resources" / "pico"
DIALOGUES, TEXTS = PICO / "calibration.jsonl", PICO / "calibration_texts.jsonl"
RECIPES = ("nvfp4_default", "local_hessian")
PARTS = ("chats", "texts")
BASE = "dialogues"
_ENVIRONMENT = "sha256:benchmark"
_CPU = torch.device("cpu")


def sets_of(samples: int) -> dict[str, dict[Path, int]]:
    """By name, how many samples of which file."""
    return {
        BASE: {DIALOGUES: samples},
        "texts": {TEXTS: samples},
        "half of each": {DIALOGUES: samples // 2, TEXTS: samples - samples // 2},
        "all of both": {DIALOGUES: samples, TEXTS: samples},
    }


def source(folder: Path) -> tuple[Artifact, Artifact]:
    """The agent's language model, with sound keys, and the MTP head that a release has."""
    fetched = fetch_source(
        location=str(PICO / "pico-agent"),
        output=Output.at(folder / "fetched"),
        environment=_ENVIRONMENT,
    )
    fixed = fix_keys(source=fetched, output=Output.at(folder / "fixed"), environment=_ENVIRONMENT)
    text = extract_text(
        fixed=fixed,
        output=Output.at(folder / "text"),
        environment=_ENVIRONMENT,
    )
    donor = fetch_donor(
        location=str(PICO / "pico-base"),
        output=Output.at(folder / "donor"),
        environment=_ENVIRONMENT,
    )
    return text, donor


@dataclass(frozen=True)
class Reading:
    """What all releases have in common: source, MTP head, and what they read."""

    text: Artifact
    donor: Artifact
    documents: Sequence[Document]
    reference: Reference
    folder: Path

    @classmethod
    def of(cls, folder: Path, *, documents: int, tokens: int) -> "Reading":
        """Let the bf16 source read the documents."""
        text, donor = source(folder)
        contents = [
            *read_chats(PICO / "heldout.jsonl", limit=documents),
            *read_texts(PICO / "heldout_texts.jsonl", limit=documents),
        ]
        read = read_documents(text.folder, contents, limit=tokens)
        with one_thread(_CPU):
            reference = Reference.of(_target(with_head(text, donor, folder / "bf16")), read)
        return cls(text, donor, read, reference, folder)

    def sums(self, chosen: Mapping[Path, int], recipe: str) -> dict[str, Sums | None]:
        """Quantize with some samples; what the result makes of the documents."""
        sets = tuple(CalibrationSet(dataset=str(path), samples=n) for path, n in chosen.items())
        settings = Quantization.model_validate(
            {"recipe": recipe, "device": "cpu", "calibration": Calibration(sets=sets)}
        )
        quantized = quantize_nvfp4(
            text=self.text,
            output=Output.at(self.folder / "quantized"),
            settings=settings,
            environment=_ENVIRONMENT,
        )
        release = with_head(quantized, self.donor, self.folder / "release")
        with one_thread(_CPU):
            sums = score(_target(release), self.documents, self.reference)
        gc.collect()
        return sums


def _target(folder: Path) -> Target:
    """A model that reads documents, W4A4 as the format says where it is quantized."""
    return Target(Weights(Checkpoint.open(folder), device=_CPU, activations="nvfp4"))


def figures(own: Sums, base: Sums) -> dict[str, Any]:
    """Divergence of one release, and how it differs from that of the other, by document."""
    changes = [divergence - baseline for divergence, baseline in zip(own.kl, base.kl, strict=True)]
    return {
        "kl": positive_ratio(own.kl, own.tokens).record(),
        "kl_beside_dialogues": ratio_of_sums(changes, own.tokens).record(),
        "top1_agreement": round(sum(own.agreements) / sum(own.tokens), 5),
    }


def report(results: Mapping[str, Mapping[str, Mapping[str, Sums | None]]]) -> list[dict[str, Any]]:
    """Print the table; its rows for the line of JSON."""
    rows: list[dict[str, Any]] = []
    print("recipe          samples          read    KL                          beside dialogues")
    for recipe, by_set in results.items():
        for name, sums in by_set.items():
            for part in PARTS:
                own, base = sums[part], by_set[BASE][part]
                assert own is not None
                assert base is not None
                row: dict[str, Any] = {"recipe": recipe, "samples": name, "part": part}
                row |= figures(own, base)
                rows.append(row)
                beside = "" if name == BASE else change(row["kl_beside_dialogues"])
                print(f"{recipe:16}{name:17}{part:8}{small(row['kl']):28}{beside}")
    return rows


def main() -> int:
    """Parse arguments, measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=20, help="of each calibration (20)")
    parser.add_argument("--documents", type=int, default=32, help="held-out ones of a kind (32)")
    parser.add_argument("--tokens", type=int, default=1000, help="longer ones are cut (1000)")
    parser.add_argument(
        "--folder", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args()
    unwind_when_ended()
    results: dict[str, dict[str, dict[str, Sums | None]]] = {}
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
        where = machine(Path(name))
        reading = Reading.of(Path(name), documents=args.documents, tokens=args.tokens)
        for recipe in RECIPES:
            results[recipe] = {}
            for chosen, samples in sets_of(args.samples).items():
                print(f"{recipe}, {chosen}", file=sys.stderr)
                results[recipe][chosen] = reading.sums(samples, recipe)
    documents = reading.documents
    tokens = sum(len(document.tokens) - 1 for document in documents)
    request = {"samples": args.samples, "documents": len(documents), "tokens": tokens}
    print(
        json.dumps(
            {"benchmark": "calibration", "machine": where, **request, "rows": report(results)}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
