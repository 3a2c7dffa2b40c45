r"""Which loss, which texts and how much time make a head's drafts right more often?

The MTP head of a release is trained in several ways on the same body, and each result is held
against the same texts that none of them learned from: replies of the release to prompts that are
set aside by content, and to prompts of other domains. Given are the release with a grafted head,
what `sample_replies` made for it, and a donor that was trained for one draft a step.

    python bench/healing_variants.py RELEASE REPLIES --one-step-donor resources/pico/pico-one-step \
        --device cuda --short 50 --long 400

Counted is as `heal_mtp` counts: along the texts as they stand, a step beginning at every place of a
reply. The seconds are those of training alone; on a GPU in one process, after a warm-up. Progress
goes to stderr, a table and one line of JSON to stdout.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from support.measure import machine, unwind_when_ended

from scion.checkpoint.shards import Checkpoint, index_headers
from scion.formats.stored_modules import HeadScheme
from scion.healing.agreement import Agreement
from scion.healing.config import Training
from scion.healing.heal import heal
from scion.healing.texts import LearnedText, read_texts
from scion.healing.training import KEPT, Healed, held_out_places

_SET_ASIDE = 0.2
_LOSSES = ("cross_entropy", "total_variation", "acceptance")


def with_head(release: Path, donor: Path, folder: Path) -> Path:
    """A copy of a release that has a donor's head in place of its own."""
    shutil.copytree(release, folder)
    head = load_file(donor / "model.safetensors")
    checkpoint = Checkpoint.open(folder)
    for shard in {checkpoint.shard_of[name] for name in head}:
        tensors = load_file(folder / shard)
        # Other links of the file stay what they are.
        (folder / shard).unlink()
        tensors |= {name: each for name, each in head.items() if name in tensors}
        save_file(tensors, folder / shard, {"format": "pt"})
    index_headers(folder, sorted(checkpoint.headers))
    return folder


def variants(short: int, long: int, schemes: Sequence[str]) -> list[dict[str, Any]]:
    """What is tried, each as the settings that differ."""
    tried = [
        *((loss, "both", short, "none") for loss in _LOSSES),
        *(("cross_entropy", of, short, "none") for of in ("own", "given")),
        *((loss, "both", long, "none") for loss in ("cross_entropy", "acceptance")),
        *(("cross_entropy", "both", long, scheme) for scheme in schemes if scheme),
    ]
    return [dict(zip(("loss", "texts", "steps", "head"), each, strict=True)) for each in tried]


def chosen(texts: Sequence[LearnedText], of: str) -> list[LearnedText]:
    """The release's own replies, the given dialogues, or both; other domains always."""
    given = {"own": (False,), "given": (True,), "both": (False, True)}[of]
    return [t for t in texts if t.domain == "off" or (t.origin == "given") in given]


def figures(found: Agreement, texts: range) -> dict[str, Any]:
    """Agreement on some of the texts."""
    part = Agreement(
        tuple(found.begun[place] for place in texts), tuple(found.agreed[place] for place in texts)
    )
    return part.record()


def tried(
    release: Path,
    learned: Sequence[LearnedText],
    judged: Sequence[LearnedText],
    settings: Training,
    scheme: HeadScheme,
    work: Path,
) -> tuple[Healed, float]:
    """Train once; the result, and the seconds of training."""
    texts = [*learned, *(replace(text, domain="off") for text in judged)]
    if not work.exists():
        # The hidden states stay for all that learns from these texts.
        heal(release, texts, settings.model_copy(update={"steps": 1}), work=work)
    start = time.perf_counter()
    healed = heal(release, texts, settings, work=work, scheme=scheme)
    seconds = time.perf_counter() - start
    (work / KEPT).unlink(missing_ok=True)
    return healed, seconds


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    shares = "  ".join(
        " ".join(f"{place['value']:.3f}" for place in row[of]["per_position"])
        + f" {row[of]['tokens']:.2f}"
        for of in ("in", "off")
    )
    head = f"{row['donor']:11}{row['loss']:17}{row['texts']:7}{row['head']:7}{row['steps']:5}"
    return f"{head}{row['seconds']:7.1f} s  {shares}"


def main() -> int:
    """Parse arguments, train, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("release", type=Path, help="folder, with a grafted head")
    parser.add_argument("replies", type=Path, help="replies.jsonl of sample_replies")
    parser.add_argument("--one-step-donor", type=Path, help="folder with another head")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--short", type=int, default=50, help="steps (50)")
    parser.add_argument("--long", type=int, default=400, help="steps (400)")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="of a step (8192)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--heads", default="", help="schemes to train through, such as fp8,nvfp4")
    parser.add_argument("--out", type=Path, help="where the heads of the long runs go")
    args = parser.parse_args()
    unwind_when_ended()
    texts = [text for text in read_texts(args.replies) if text.chains(3)]
    own = [text for text in texts if text.domain == "in" and text.origin != "given"]
    judged = [own[place] for place in sorted(held_out_places(own, _SET_ASIDE, seed=1))]
    off = [text for text in texts if text.domain == "off"]
    aside = {text.name for text in judged}
    learned = [text for text in texts if text.domain == "in" and text.name not in aside]
    domains = {"in": range(len(judged)), "off": range(len(judged), len(judged) + len(off))}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="scion-bench-") as name:
        folder = Path(name)
        donors = {"pair": args.release}
        if args.one_step_donor:
            donors["one step"] = with_head(args.release, args.one_step_donor, folder / "one-step")
        for donor, release in donors.items():
            for variant in variants(args.short, args.long, args.heads.split(",")):
                settings = Training(
                    device=args.device,
                    loss=variant["loss"],
                    steps=variant["steps"],
                    batch_tokens=args.batch_tokens,
                    learning_rate=args.learning_rate,
                    patience=1 << 20,
                )
                healed, seconds = tried(
                    release,
                    chosen(learned, variant["texts"]),
                    [*judged, *off],
                    settings,
                    variant["head"],
                    folder / variant["texts"],
                )
                assert healed.off_before is not None
                assert healed.off_after is not None
                parts = {
                    when: {of: figures(found, part) for of, part in domains.items()}
                    for when, found in (("before", healed.off_before), ("after", healed.off_after))
                }
                if donor not in {row["donor"] for row in rows}:
                    before = {"loss": "as grafted", "texts": "", "head": "none", "steps": 0}
                    rows.append({"donor": donor, **before, "seconds": 0.0, **parts["before"]})
                    print(line(rows[-1]), file=sys.stderr)
                rows.append(
                    {"donor": donor, **variant, "seconds": round(seconds, 2), **parts["after"]}
                )
                print(line(rows[-1]), file=sys.stderr)
                if args.out and variant["steps"] == args.long and healed.tensors:
                    words = (donor, variant["loss"], variant["head"])
                    args.out.mkdir(parents=True, exist_ok=True)
                    file = args.out / ("-".join(words).replace(" ", "_") + ".safetensors")
                    save_file(healed.tensors, file, {"format": "pt"})
        where = machine(folder)
    print("\n".join(map(line, rows)))
    on_gpu = args.device == "cuda"
    result: dict[str, Any] = {
        "benchmark": "healing_variants",
        "machine": where,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "learned": {
            of: sum(text.origin == of for text in learned) for of in ("greedy", "sampled", "given")
        },
        "judged": {"in": len(judged), "off": len(off)},
        "rows": rows,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
