"""The checks of a release against the checkpoints it was made from, and their report.

This is what `verify_release` does once it is known that the store has no such artifact; its module
lists them. They stand apart because torch takes seconds to import.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from scion.architectures.families import in_head
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.release_layout import HEALED
from scion.checkpoint.experts_apart import experts_apart
from scion.checkpoint.own_head import OwnHead
from scion.checkpoint.safetensors_file import digest_safetensors
from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.checkpoint.source_parts import Kept, SourceParts
from scion.common.digest import in_parallel
from scion.common.errors import ScionError
from scion.common.progress import progress
from scion.formats.modelopt import FP8
from scion.formats.spellings import SPELLINGS, Spelling, declared_spelling
from scion.formats.stored_modules import algorithms
from scion.lint.config import Lint
from scion.lint.gate import judged_engines, lint_folder, require_sound
from scion.lint.json_report import finding_row
from scion.quantization.recipe_table import recipe_row
from scion.quantization.verify_fp8 import check_fp8_scales
from scion.quantization.verify_head import check_head, quantized_modules
from scion.quantization.verify_weights import check_weights, error_ratio, overall_error

_AGAIN = "the release was made by quantize_nvfp4: remove its artifact and run the workflow again"
_BESIDE = {"mtp": "MTP head", "vision": "vision tower"}


def verify_checkpoint(
    release: Artifact,
    fixed: Artifact,
    donor: Artifact | None,
    settings: Lint,
    *,
    healed: Artifact | None = None,
) -> dict[str, Any]:
    """Check a grafted release, and report.

    Args:
        release: The NVFP4 checkpoint, with its MTP head if it has one.
        fixed: The bf16 source with sound keys.
        donor: The MTP tensors; None where the head is the source's own, or there is none.
        settings: Engines to judge the release for, and rules to leave out.
        healed: The release before its head was quantized; None where the head is bf16.

    Returns:
        What was found, JSON-able: counts, findings of lint, the relative error of the weights as a
        whole and by module.

    Raises:
        ScionError: The first check that fails.
    """
    findings = lint_folder(release.folder, settings)
    require_sound(findings, release.folder, hint=_AGAIN)
    checkpoint = Checkpoint.open(release.folder)
    expected = inventory(checkpoint.config, where=release.folder / "config.json")
    recorded = release.facts["recipe"]
    recipe = recipe_row(recorded["name"])
    quantized = algorithms(
        expected,
        kept=recorded["kept"],
        fp8=recorded["fp8"],
        four_bits=recorded["four_bits"],
    )
    spelling = _spelling(checkpoint)
    source = experts_apart(Checkpoint.open(fixed.folder), expected.layer_stacks)
    parts = SourceParts.of(source.shard_of, inventory(source.config, where=fixed.folder / CONFIG))
    kept = parts.kept(_kept(release))
    gone = parts.beside.difference(*kept.values())
    rows = {name: row for name, row in fixed.tensors().items() if name not in gone}
    head = quantized_modules(release, healed, expected)
    matrices = {f"{module}.weight" for module in head}
    begun = _check_inventory(checkpoint, rows, donor, source, quantized, head, spelling)
    trained = _trained(release if healed is None else healed, begun)
    unchanged = {n: digest for n, digest in begun.items() if n not in trained | matrices}
    digests = _digests(checkpoint)
    for name, wanted in unchanged.items():
        if digests[name] != wanted:
            raise _wrong(release, name, "a tensor is not its original", wanted, digests[name])
    _check_finite(checkpoint, "mtp", trained - matrices, where=str(release.folder))
    if donor is not None:
        grafted = donor.tensors().keys() - matrices
        _check_finite(checkpoint, "mtp", grafted, where=donor.facts["location"])
    for part, names in kept.items():
        _check_finite(checkpoint, part, set(names) - matrices, where=str(fixed.folder))
    head_errors = check_head(
        release,
        checkpoint,
        healed,
        head,
        begun=begun,
        trained=trained,
        digests=digests,
        spelling=spelling,
    )
    checksums = release.facts["scale_checksums"]
    errors = check_weights(checkpoint, source, quantized, recipe, spelling, checksums)
    eight_bits = [module for module, algorithm in quantized.items() if algorithm == FP8]
    check_fp8_scales(checkpoint, source, eight_bits, expected.groups, recipe, spelling)
    return {
        "tensors": len(digests),
        "unchanged_tensors": len(unchanged),
        "trained_tensors": len(trained),
        "quantized_head_modules": len(head_errors),
        "relative_head_error": overall_error(head_errors) if head_errors else None,
        "mtp_tensors": sum(map(in_head, digests)),
        "quantized_modules": len(errors),
        "fp8_modules": len(eight_bits),
        "bytes": sum(header.data_start for header in checkpoint.headers.values())
        + sum(checkpoint.tensor(name).size for name in checkpoint.shard_of),
        "lint": {
            "engines": judged_engines(settings),
            "findings": [finding_row(result) for result in findings],
        },
        "relative_weight_error": overall_error(errors),
        "relative_weight_error_by_module": {
            name: error_ratio(error, weight)
            for name, (error, weight) in (errors | head_errors).items()
        },
    }


def _kept(release: Artifact) -> Kept:
    """What the release says that it keeps of its source beside the language model."""
    facts = release.facts
    head: OwnHead = "kept" if facts["mtp_origin"] == "source" else "removed"
    return Kept(tower=not facts["text_only"], head=head)


def _trained(release: Artifact, begun: Mapping[str, str]) -> set[str]:
    """The tensors of a head that heal_mtp has trained.

    Args:
        release: The release.
        begun: The digest that each tensor would have if nothing were trained.
    """
    origins = {name: row.get("origin", {}) for name, row in release.tensors().items()}
    trained = {name for name, origin in origins.items() if origin.get("from") == "trained"}
    for name in sorted(trained):
        begin = begun.get(name)
        if release.stage != HEALED or not in_head(name) or origins[name].get("sha256") != begin:
            raise _wrong(
                release,
                name,
                "a tensor is said to be trained, and can't be",
                f"a tensor of the MTP head, trained by {HEALED} from {begin}",
                f"{origins[name].get('sha256')}, by {release.stage}",
            )
    return trained


def _spelling(checkpoint: Checkpoint) -> Spelling:
    """How the release names tensors, by what it declares."""
    spelling = declared_spelling(checkpoint.config)
    if spelling is None:
        raise ScionError(
            "the release declares no quantization that Scion writes",
            where=f"{checkpoint.folder / 'config.json'}: quantization_config.quant_method",
            expected=", ".join(row.quant_method for row in SPELLINGS.values()),
            found=checkpoint.config.get("quantization_config"),
            hint=_AGAIN,
        )
    return spelling


def _check_inventory(
    checkpoint: Checkpoint,
    rows: Mapping[str, Mapping[str, Any]],
    donor: Artifact | None,
    source: Checkpoint,
    quantized: Mapping[str, str],
    head: Mapping[str, str],
    spelling: Spelling,
) -> dict[str, str]:
    """Check the set of tensors, their dtypes and shapes.

    Args:
        checkpoint: The release.
        rows: The source's tensors that the release is made of.
        donor: The MTP tensors, if they were grafted.
        source: The source's headers, experts one by one.
        quantized: NVFP4 or FP8 by module of the language model.
        head: The same of the MTP head; all else must be as it was.
        spelling: How the release names tensors.

    Returns:
        The digest that each tensor has before a head is trained and quantized.
    """
    weights = {f"{module}.weight" for module in quantized}
    unchanged = {
        # Of stacks, the table has none of the members, which are all quantized.
        name: row
        for name, row in rows.items()
        if name in source.shard_of and name not in weights
    }
    unchanged |= donor.tensors() if donor else {}
    wanted = {name: (row["dtype"], tuple(row["shape"])) for name, row in unchanged.items()}
    for module, algorithm in quantized.items():
        parts = spelling.layout(algorithm, source.tensor(f"{module}.weight").shape)
        wanted |= {f"{module}.{suffix}": part for suffix, part in parts.items()}
    for module, algorithm in head.items():
        _, shape = wanted.pop(f"{module}.weight")
        parts = spelling.layout(algorithm, shape)
        wanted |= {f"{module}.{suffix}": part for suffix, part in parts.items()}
    found = {
        name: (checkpoint.tensor(name).dtype, checkpoint.tensor(name).shape)
        for name in checkpoint.shard_of
    }
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ScionError(
                "the release's tensors are not those that its source implies",
                where=f"{checkpoint.folder}: {name}",
                expected=wanted.get(name, "no such tensor"),
                found=found.get(name, "no such tensor"),
                hint="remove the quantize_nvfp4 artifact and run the workflow again",
            )
    return {name: row["sha256"] for name, row in unchanged.items()}


def _digests(checkpoint: Checkpoint) -> dict[str, str]:
    paths = [checkpoint.folder / shard for shard in checkpoint.headers]
    with progress("hashing", sum(path.stat().st_size for path in paths), unit="B") as told:

        def digest(path: Path) -> Mapping[str, str]:
            found = digest_safetensors(path)
            told.advance(amount=found.size)
            return found.tensors

        tables = in_parallel(digest, paths)
    return {name: sha256 for table in tables for name, sha256 in table.items()}


def _check_finite(checkpoint: Checkpoint, part: str, names: Iterable[str], *, where: str) -> None:
    """What went around the quantizer; quantize_nvfp4 has looked at the language model."""
    for name in names:
        if not torch.isfinite(_tensor(checkpoint, name)).all():
            raise ScionError(
                f"a weight of the {_BESIDE[part]} is not finite",
                where=f"{where}: {name}",
                expected="finite numbers",
                found="NaN or infinity",
                hint="it is broken there: choose another revision",
            )


def _tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    with safe_open(checkpoint.folder / checkpoint.shard_of[name], framework="pt") as file:
        return file.get_tensor(name)


def _wrong(
    release: Artifact, tensor: str, problem: str, expected: str, found: object
) -> ScionError:
    return ScionError(
        problem,
        where=f"{release.folder}: {tensor}",
        expected=expected,
        found=found,
        hint=f"remove {release.folder} and what it was made from, and run the workflow again",
    )
