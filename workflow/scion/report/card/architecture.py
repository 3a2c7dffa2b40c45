"""What the card says of a release's parts: which are quantized, which stay, whose its head is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scion.architectures.inventory import Inventory, inventory
from scion.checkpoint.shards import CONFIG, read_object
from scion.common.text import share, size
from scion.formats.modelopt import FP8, NVFP4, W4A16
from scion.report.config import Card

# What a release quantizes, by the parent of the modules.
_PARTS = {"self_attn": "attention", "linear_attn": "gated delta net", "mlp": "MLP"}
_DELTA_NET = "linear_attn"
# What a head's matrices are in, by the algorithm that is declared.
_KINDS = {FP8: "FP8", NVFP4: "NVFP4", W4A16: "NVFP4"}


def part_values(
    release: Path, *, recipe: Mapping[str, Any], head: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the template says of a release's parts.

    Args:
        release: The checkpoint's folder.
        recipe: The fact of quantize_nvfp4.
        head: That of quantize_mtp; None where the head is bf16.
    """
    expected = inventory(read_object(release / CONFIG), where=release / CONFIG)
    held = [parent for parent in _PARTS if any(f".{parent}." in name for name in expected.linear)]
    return {
        "family": expected.family.title,
        "quantized_parts": ", ".join(
            _PARTS[parent] for parent in held if parent not in recipe["kept"]
        ),
        "fp8": " and ".join(_PARTS[parent] for parent in held if parent in recipe["fp8"]),
        "kept_parts": ", ".join(_kept(expected, recipe, head)),
        "delta_net": _DELTA_NET in held,
        "nested": expected.family.nested,
    }


def _kept(
    expected: Inventory, recipe: Mapping[str, Any], head: Mapping[str, Any] | None
) -> list[str]:
    """What stays in bf16, with the reasons."""
    tables = "`lm_head` and the embeddings" + (", which are one table" if expected.tied else "")
    kept = [f"the projections of `{parent}`" for parent in recipe["kept"]]
    kept.append(f"{tables} (each token's own row; errors there reach every output)")
    ends = {end for module in expected.kept for end in expected.family.kept if module.endswith(end)}
    small = [f"`{end}`" for end in expected.family.kept if end in ends]
    if small:
        state = " in the recurrent state" if any(_DELTA_NET in end for end in ends) else ""
        kept.append(f"{', '.join(small)} (small, and their errors pile up{state})")
    biases = any(name.endswith(".bias") for name in expected.language)
    kept.append("all norms and biases" if biases else "all norms")
    if expected.mtp and head:
        kept.append("`fc` of the MTP head (SGLang loads it in bf16 alone)")
    elif expected.mtp:
        kept.append("the MTP head")
    return kept


def head_values(
    card: Card, graft: Mapping[str, Any], *, fix: Mapping[str, Any], text: Mapping[str, Any]
) -> dict[str, str]:
    """Where the MTP head comes from: in a few words, and how it was made.

    Args:
        card: The configuration's section.
        graft: The facts of graft_mtp.
        fix: Those of fix_keys.
        text: Those of extract_text.
    """
    count = f"{graft['mtp_tensors']} tensors ({size(graft['mtp_bytes'])})"
    healing = graft.get("healing")
    trained = healing is not None and healing["healed"]
    state = "then trained" if trained else "bit for bit"
    healed = ", healed on this body" if trained else ""
    told = f". {_healing(healing)}" if healing is not None else ""
    head = graft.get("quantized_head")
    told += f". {_quantized(head)}" if head else ""
    stored = _KINDS[head["algorithm"]] if head else "bf16"
    if graft["mtp_origin"] == "source":
        return {
            "brief": f"with its own {stored} multi-token-prediction (MTP) head{healed}",
            "made": f"the parent's own, the {count}, {state}{told}",
        }
    if graft["mtp_origin"] == "none":
        lost = text["mtp_tensors_removed"]
        had = "announces one and holds none" if fix["mtp_missing"] else "has none"
        made = f"none; the parent's {lost} tensors were left out" if lost else f"the parent {had}"
        return {
            "brief": "without a multi-token-prediction (MTP) head",
            "made": text["not_applicable"].get("MTP head", made),
        }
    page = f"[{card.base}](https://huggingface.co/{card.base})"
    parents = "missing" if fix["mtp_missing"] else "replaced"
    return {
        "brief": f"with the {stored} multi-token-prediction (MTP) head of {page}{healed}",
        "made": f"`{graft['donor']}`, the {count}, {state}; the parent's was {parents}. "
        f"{_kinship(graft['kinship'])}{told}",
    }


def _healing(healing: Mapping[str, Any]) -> str:
    """What training the head on this release's body has changed."""
    before, after, texts = healing["before"], healing["after"], healing["texts"]
    learned = (
        f"{texts['learned']} texts ({texts['greedy']} greedy and {texts['sampled']} sampled "
        f"replies of this release and {texts['given']} given dialogues, less "
        f"{texts['held_out']} held out) "
        f"on {healing['device']}, torch {healing['torch']}"
    )
    off = healing["off_domain"]
    if not healing["healed"]:
        worse = off is not None and off["worse"]
        lost = "it worse on texts of other domains" if worse else "it no better on those"
        return f"Training it on {learned}, made {lost}, so it stays as it was"
    places = zip(before["per_position"], after["per_position"], strict=True)
    shares = ", ".join(f"{share(first)} to {share(last)}" for first, last in places)
    return (
        f"It was trained on this release's own body, with {learned}. On those that were held out "
        f"its drafts, up to the first, second, … place, were what the body says in {shares} of the "
        f"steps: {before['tokens']:.2f} to {after['tokens']:.2f} tokens a step{_elsewhere(off)}"
    )


def _elsewhere(off: Mapping[str, Any] | None) -> str:
    if off is None:
        return ""
    before, after = (off[when]["tokens"] for when in ("before", "after"))
    return f"; on {off['texts']} texts of other domains {before:.2f} to {after:.2f}"


def _quantized(head: Mapping[str, Any]) -> str:
    """What storing the head's matrices in fewer bits has made of it."""
    kind = _KINDS[head["algorithm"]]
    return (
        f"The {len(head['modules'])} matrices of its decoder layer are then stored in {kind} with "
        f"maximum scales, which leaves {size(head['bytes'])} of it"
    )


def _kinship(kinship: Mapping[str, Any]) -> str:
    """How near source and donor are."""
    rows, norms = kinship["rows"], kinship["norms"]
    if not rows or not norms:
        return "The donor has no other weights to compare with the parent's, and is trusted by name"
    # Kin or not: a donor that is trusted by name is taken by that word.
    said = "The donor is trusted by name" if kinship["trusted"] else "Donor and parent are kin"
    return (
        f"{said}: median correlation {kinship['row_correlation']:.3f} over {rows} "
        f"rows of the embeddings (relative distance {kinship['row_distance']:.3f}), "
        f"{kinship['norm_correlation']:.3f} over {norms} norms ({kinship['norm_distance']:.3f}); "
        f"{kinship['least_correlation']} is asked for"
    )
