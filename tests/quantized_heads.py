"""Releases whose MTP head was trained and then quantized, made from a conversion in seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conversion import ENVIRONMENT, Conversion, Pico
from healing import QUICK, replies_artifact, short_texts
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.shards import Checkpoint
from scion.evaluation.chats import read_chats
from scion.evaluation.offline.acceptance import count_rounds
from scion.evaluation.offline.mtp import Drafter, load_head
from scion.evaluation.offline.prompts import end_tokens, load_tokenizer, prompt_ids
from scion.evaluation.offline.target import Target
from scion.evaluation.offline.weights import Weights
from scion.formats.stored_modules import HeadScheme
from scion.lint.config import Lint
from scion.stages.heal_mtp import heal_mtp
from scion.stages.quantize_mtp import quantize_mtp
from scion.stages.verify_release import verify_release

MAXIMA = "input_maxima"


def trained(grafted: Artifact, pico: Pico, folder: Path) -> dict[str, Artifact]:
    """`sample_replies` and `heal_mtp` of a release, with the largest inputs of the head."""
    replies = replies_artifact(grafted, short_texts(pico), folder / "sample_replies")
    healed = heal_mtp(
        release=grafted,
        replies=replies,
        training=QUICK,
        output=Output.at(folder / "trained"),
        environment=ENVIRONMENT,
    )
    maxima = input_maxima(healed.folder, pico)
    facts = {**healed.facts, "healing": {**healed.facts["healing"], MAXIMA: maxima}}
    return {
        "sample_replies": replies,
        "heal_mtp": told(healed, {"release": grafted, "replies": replies}, facts, folder),
    }


def told(
    healed: Artifact, inputs: dict[str, Artifact | Path], facts: dict[str, Any], folder: Path
) -> Artifact:
    """The same artifact of heal_mtp with other facts."""

    def build(draft: Draft) -> None:
        draft.link_all(healed)
        draft.origins |= {name: row["origin"] for name, row in healed.tensors().items()}
        draft.facts |= facts

    return remake(
        Output.at(folder / "heal_mtp"),
        stage="heal_mtp",
        inputs=inputs,
        settings={"facts": sorted(facts)},
        environment=ENVIRONMENT,
        build=build,
    )


def input_maxima(folder: Path, pico: Pico) -> dict[str, float]:
    """The largest magnitude that each linear module of a head sees while it drafts."""
    weights = Weights(Checkpoint.open(folder), device=torch.device("cpu"), activations="nvfp4")
    target = Target(weights)
    head, tokenizer = load_head(weights, target.config), load_tokenizer(folder)
    found = dict[str, float]()

    def watch(name: str, module: nn.Module) -> None:
        def seen(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found[name] = max(found.get(name, 0.0), inputs[0].abs().max().item())

        module.register_forward_pre_hook(seen)

    for name, module in head.named_modules():
        if isinstance(module, nn.Linear):
            watch(f"mtp.{name}", module)
    for chat in read_chats(pico.calibration, limit=4):
        prompt = prompt_ids(tokenizer, chat)
        reply = target.decode(prompt, ends=end_tokens(folder, tokenizer), limit=40, past=3)
        drafter = Drafter(head, target, prompt, reply.hidden)
        count_rounds(reply.tokens, reply.length, drafter.draft, 3)
    return found


def quantized(healing: Mapping[str, Artifact], folder: Path, scheme: HeadScheme) -> Artifact:
    """The release with its head in FP8 or NVFP4, of what `trained` has made."""
    return quantize_mtp(
        release=healing["heal_mtp"],
        scheme=scheme,
        output=Output.at(folder / "quantize_mtp"),
        environment=ENVIRONMENT,
    )


def verified_of(
    conversion: Conversion, release: Artifact, healed: Artifact | None, folder: Path
) -> Artifact:
    """What `verify_release` says of it."""
    return verify_release(
        release=release,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        healed=healed,
        output=Output.at(folder / "verify_release"),
        settings=Lint(),
        environment=ENVIRONMENT,
    )
