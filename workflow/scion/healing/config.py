"""Configuration of sample_replies and heal_mtp."""

from typing import Literal

from pydantic import Field

from scion.common.section import Section

LossName = Literal["cross_entropy", "total_variation", "acceptance"]


class ReplySampling(Section):
    """What the head learns from; made by sample_replies."""

    prompts: str = Field(
        default="resources/pico/healing.jsonl",
        description="JSONL of chats that the release is asked, such as users will ask it; none of "
        "them may be one that it is measured with",
    )
    limit: int | None = Field(
        default=None, gt=0, description="number of prompts, from the start; null: all of them"
    )
    reply_tokens: int = Field(default=100, gt=0, le=1 << 24, description="longest reply")
    sampled_share: float = Field(
        default=0.5, ge=0, le=1, description="share of replies that are sampled; others are greedy"
    )
    temperature: float = Field(
        default=1.0, gt=0, le=2, description="temperature of replies that are sampled"
    )
    parallel_requests: int = Field(
        default=32, gt=0, le=1 << 16, description="requests at the same time"
    )
    dialogues: str | None = Field(
        default="resources/pico/calibration.jsonl",
        description="JSONL of chats whose replies are learned from as they stand there; null: none",
    )
    off_domain: str | None = Field(
        default="resources/pico/off_domain.jsonl",
        description="JSONL of chats of other kinds, which are asked as well and never learned from:"
        " a head that is worse on them than before is not released; null: none",
    )


class Training(Section):
    """How the head is trained; by heal_mtp."""

    loss: LossName = Field(
        default="cross_entropy",
        description="what is made small: the cross entropy to the body's distribution, its total "
        "variation distance, or the negative logarithm of the chance that a sampled draft is "
        "accepted",
    )
    draft_tokens: int = Field(
        default=3, gt=0, le=16, description="drafts of a step that the head is trained for"
    )
    steps: int = Field(default=100, gt=0, description="steps of the optimizer (AdamW)")
    batch_tokens: int = Field(default=8192, gt=0, description="tokens of a step, at most")
    learning_rate: float = Field(
        default=1e-3, gt=0, lt=1, description="highest learning rate; a large model wants less"
    )
    donor_pull: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="how strongly each step pulls the weights back to those the head began with: "
        "it keeps what no prompt covers",
    )
    held_out_share: float = Field(
        default=0.1,
        gt=0,
        le=0.5,
        description="share of the texts that is not trained on, set aside by content: if drafts "
        "are right no more often on them than before, the head stays as it was",
    )
    activations: Literal["nvfp4", "bf16"] = Field(
        default="nvfp4",
        description="what NVFP4 layers of the body multiply with: inputs rounded as the format "
        "says, or bf16 as on GPUs without FP4 units",
    )
    patience: int = Field(
        default=8,
        gt=0,
        description="training ends when so many looks at the texts held out, of eight, have found "
        "no head that is better than the best before; fewer than eight may end it before the "
        "learning rate has fallen",
    )
    optimizer_memory: Literal["device", "cpu"] = Field(
        default="device",
        description="where the weights in float32 and the optimizer's two moments of each lie: "
        "with the head, or in the machine's memory, which takes 12 bytes a weight less of a GPU "
        "and more time",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where it runs; auto takes a GPU if there is one"
    )
    seed: int = Field(default=0, ge=0, description="of the order of the texts")


class Healing(Section):
    """Training of the release's MTP head on its own body. Replies of the release stay the same."""

    enabled: bool = Field(
        default=False, description="train the head; false releases it as it was grafted"
    )
    replies: ReplySampling = ReplySampling()
    training: Training = Training()
