"""Does verify_release find block scales that are wrong?

Each recipe is made of the embedded agent. Then the block scales of its modules are made wrong by a
factor, in a share of the blocks, with the codes nearest to what they held before, and the check of
verify_release is run over every module. Told is in how many modules it was refused; one suffices to
refuse a release. Of the sound release every module has to pass, and how far its blocks are from
those of maximum scales is told beside: `scion.quantization.recipe_table` bounds that.

The last line of stdout is one JSON object.

    .venv/bin/python bench/verification.py --output docs/measurements/verification.json
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from support.measure import machine, tell

from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.shards import Checkpoint
from scion.common.errors import ScionError
from scion.formats.nvfp4 import dequantize, maximum_scales, rounding_errors, square_sums
from scion.formats.packing import pack
from scion.formats.spellings import DEFAULT_SPELLING
from scion.formats.stored_modules import algorithms
from scion.quantization.config import Calibration, CalibrationSet, Quantization
from scion.quantization.recipe_table import RECIPES, RecipeRow
from scion.quantization.verify_nvfp4 import Rows, check_module, row_blocks
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.quantize_nvfp4 import quantize_nvfp4

PICO = Path(__file__).parents[1] / "resources/pico"
FACTORS, SHARES = (0.5, 2.0, 3.0, 4.0), (0.01, 0.1, 1.0)
_SCALES, _ERRORS = (0.5, 0.6, 2, 3, 4, 8), (4, 16, 64)


def wrong_scales(rows: Rows, factor: float, share: float, *, moved: bool) -> Rows:
    """Some blocks with so many times their scale, and the codes nearest to what they held."""
    weight, packed, scale, scale_2 = rows
    chosen = torch.rand(scale.shape, generator=torch.Generator().manual_seed(0)) < share
    scaled = (scale.float() * factor).clamp(2.0**-9, 448)
    changed = torch.where(chosen, scaled, scale.float()).to(scale.dtype)
    # GPTQ's codes are not the nearest to the source.
    held = dequantize(packed, scale, scale_2) if moved else weight
    codes, _ = pack(held.contiguous(), scale_2, changed)
    return weight, codes, changed, scale_2


def refused(rows: Rows, recipe: RecipeRow, module: str, checksums: dict[str, float]) -> bool:
    """Whether the check of verify_release stops at a module."""
    try:
        check_module([rows], recipe, module=module, folder=Path(), checksums=checksums)
    except ScionError:
        return True
    return False


def beside_maxima(rows: Rows) -> dict[str, float]:
    """A module's squared error beside that of maximum scales, and shares of far blocks."""
    weight, packed, scale, scale_2 = rows
    wanted = maximum_scales(weight, scale_2)
    least = rounding_errors(weight, wanted, scale_2)
    found = square_sums(dequantize(packed, scale, scale_2) - weight.float())
    scales, errors = scale.float() / wanted, found / least
    far = {f"scales {x:g}": (scales >= x if x > 1 else scales <= x) for x in _SCALES}
    far |= {f"errors {x:g}": errors >= x for x in _ERRORS}
    shares = {name: flags.float().mean().item() for name, flags in far.items()}
    return {
        "error": (found.sum() / least.sum()).item(),
        "worst block": errors.max().item(),
        **shares,
    }


def judged(recipe: RecipeRow, text: Artifact, release: Artifact) -> dict[str, Any]:
    """What the check says of a release, sound and made wrong."""
    source, checkpoint = Checkpoint.open(text.folder), Checkpoint.open(release.folder)
    expected = inventory(checkpoint.config, where=release.folder)
    checksums = release.facts["scale_checksums"]

    def modules() -> Iterator[tuple[str, Rows]]:
        for module in algorithms(expected, kept=(), fp8=()):
            windows = list(row_blocks(checkpoint, source, module, DEFAULT_SPELLING))
            parts = [torch.cat(part) for part in list(zip(*windows, strict=True))[:3]]
            yield module, (parts[0], parts[1], parts[2], windows[0][3])

    seen = [beside_maxima(rows) for _, rows in modules()]
    wrong: list[dict[str, Any]] = []
    for factor in FACTORS:
        for share in SHARES:
            found = sum(
                refused(
                    wrong_scales(rows, factor, share, moved=recipe.compensated),
                    recipe,
                    module,
                    checksums,
                )
                for module, rows in modules()
            )
            wrong.append({"factor": factor, "share": share, "refused_modules": found})
    return {
        "name": recipe.name,
        "modules": len(seen),
        "sound_modules_refused": sum(
            refused(rows, recipe, module, checksums) for module, rows in modules()
        ),
        "wrong": wrong,
        "beside_maxima": {
            name: {
                "least": round(min(row[name] for row in seen), 6),
                "most": round(max(row[name] for row in seen), 6),
            }
            for name in seen[0]
        },
    }


def main() -> int:
    """Parse arguments, make the releases, judge them, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=8, help="calibration samples (8)")
    parser.add_argument("--output", type=Path, help="write the report there as well, indented")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="scion-bench-") as name:
        folder, env = Path(name), "sha256:bench"

        def output(stage: str) -> Output:
            return Output.at(folder / stage)

        source = fetch_source(
            location=str(PICO / "pico-agent"), output=output("fetch_source"), environment=env
        )
        fixed = fix_keys(source=source, output=output("fix_keys"), environment=env)
        text = extract_text(
            fixed=fixed,
            output=output("extract_text"),
            environment=env,
        )
        samples = CalibrationSet(dataset=str(PICO / "calibration.jsonl"), samples=args.samples)
        for recipe in RECIPES.values():
            settings = Quantization(
                recipe=recipe.name, calibration=Calibration(sets=(samples,)), device="cpu"
            )
            release = quantize_nvfp4(
                text=text, output=output(recipe.name), settings=settings, environment=env
            )
            recipes.append(judged(recipe, text, release))
            print(json.dumps(recipes[-1]), file=sys.stderr)
        report = {
            "benchmark": "verification",
            "command": f"bench/verification.py {' '.join(sys.argv[1:])}",
            "machine": machine(folder),
            "samples": args.samples,
            "recipes": recipes,
        }
    tell(report, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
