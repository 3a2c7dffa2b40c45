"""Whether a quantized MTP head is what quantize_mtp makes of the one that heal_mtp has left."""

from collections.abc import Mapping

from scion.architectures.inventory import Inventory, inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.release_layout import HEAD_QUANTIZED, HEALED
from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.common.errors import ScionError
from scion.formats.modelopt import FP8
from scion.formats.spellings import Spelling
from scion.quantization.head_groups import head_groups
from scion.quantization.quantized_head import MAXIMA, input_scale, rounds_inputs
from scion.quantization.recipe_table import recipe_row
from scion.quantization.stored_rows import StoredRows
from scion.quantization.verify_fp8 import check_fp8_scales
from scion.quantization.verify_weights import check_weights

# The recipe whose bounds hold for the weights: that of maximum scales.
_RECIPE = "nvfp4_default"


def quantized_modules(
    release: Artifact, healed: Artifact | None, expected: Inventory
) -> dict[str, str]:
    """The algorithm of each module of a release's head that is quantized; empty where none is.

    Args:
        release: Of its facts the one of quantize_mtp is read.
        healed: The release before its head was quantized; None where the head is bf16.
        expected: The tensors that its config.json implies.

    Raises:
        ScionError: The release before is missing, or no artifact of heal_mtp, or there is one of a
            head in bf16; as `head_groups`.
    """
    wanted = HEALED if release.stage == HEAD_QUANTIZED else None
    found = None if healed is None else healed.stage
    if wanted != found:
        problem = "the head before it was quantized is not the one to verify with"
        raise _wrong(release, "the MTP head", problem, wanted or "none", found or "none")
    if release.stage != HEAD_QUANTIZED:
        return {}
    algorithm = release.facts["quantized_head"]["algorithm"]
    return {module: algorithm for group in head_groups(expected) for module in group}


def check_head(
    release: Artifact,
    checkpoint: Checkpoint,
    healed: Artifact | None,
    head: Mapping[str, str],
    *,
    begun: Mapping[str, str],
    trained: set[str],
    digests: Mapping[str, str],
    spelling: Spelling,
) -> dict[str, tuple[float, float]]:
    """Hold a quantized head against the one that heal_mtp has left, in bf16.

    Args:
        release: The release.
        checkpoint: Its headers.
        healed: The release before.
        head: The algorithm of each module of the head that is quantized.
        begun: The digest that each tensor would have if nothing were trained and quantized.
        trained: The tensors that heal_mtp has trained.
        digests: Those that the release's tensors have.
        spelling: How the release names tensors.

    Returns:
        Squared error and squared norm by module; empty where the head is bf16.

    Raises:
        ScionError: The first tensor that is not what heal_mtp's makes.
    """
    if healed is None:
        return {}
    before = {name: row["sha256"] for name, row in healed.tensors().items()}
    matrices = {f"{module}.weight" for module in head}
    for name in trained - matrices:
        if digests[name] != before[name]:
            problem = "a trained tensor is another than heal_mtp has made"
            raise _wrong(release, name, problem, before[name], digests[name])
    for name in matrices - trained:
        if before[name] != begun[name]:
            problem = "a tensor that was quantized is not its original"
            raise _wrong(healed, name, problem, begun[name], before[name])
    _check_input_scales(checkpoint, healed, head, spelling)
    bf16, row = Checkpoint.open(healed.folder), recipe_row(_RECIPE)
    errors = check_weights(checkpoint, bf16, head, row, spelling, {})
    groups = inventory(bf16.config, where=healed.folder / CONFIG).groups
    eight_bits = [module for module, algorithm in head.items() if algorithm == FP8]
    check_fp8_scales(checkpoint, bf16, eight_bits, groups, row, spelling)
    return errors


def _check_input_scales(
    checkpoint: Checkpoint, healed: Artifact, head: Mapping[str, str], spelling: Spelling
) -> None:
    """Hold the scales of the head's inputs against what training has seen of these."""
    for group in head_groups(inventory(checkpoint.config, where=checkpoint.folder / CONFIG)):
        if not rounds_inputs(head[group[0]]):
            continue
        wanted = input_scale(healed, group, head[group[0]]).item()
        for module in group:
            spelled = spelling.tensor(module, head[module], "input_scale")
            found = StoredRows(checkpoint.piece(spelled.name)).whole().item()
            if found != spelled.stored(wanted):
                raise ScionError(
                    "the scale of a module's inputs is not that of the largest one in training",
                    where=f"{checkpoint.folder}: {spelled.name}",
                    expected=f"{spelled.stored(wanted):g}, of {MAXIMA} in healing",
                    found=f"{found:g}",
                    hint="remove the artifact of quantize_mtp and run the workflow again",
                )


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
