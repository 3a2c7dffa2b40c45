"""Configuration of the verdict on a release."""

from pydantic import Field

from scion.common.section import Section
from scion.engines.config import Launch


class Thresholds(Section):
    """Verdict: what a release may lose against its bf16 source, stated before the run.

    A loss in points is the source's rate less the release's, in hundredths.
    """

    enabled: bool = Field(
        default=False,
        description="true asks the bf16 source what the release is asked, and judges the release",
    )
    context_tokens: int = Field(
        default=16384,
        gt=0,
        le=1 << 24,
        description="context of the bf16 source's server, at most the launch's: its weights are "
        "three times as large, and prompts of the evaluations are short",
    )
    loss_nats_per_token: float = Field(
        default=0.05,
        gt=0,
        description="most that the loss on held-out chats may rise; 0.05 is 5 % of perplexity",
    )
    kl_nats_per_token: float = Field(
        default=0.1, gt=0, description="largest KL divergence from the source on the same tokens"
    )
    agent_loss_points: float = Field(
        default=5,
        gt=0,
        le=100,
        description="agent cases that may be lost; 110 cases on which both always agree tell no "
        "less than 3.4 points",
    )
    ifeval_loss_points: float = Field(
        default=3,
        gt=0,
        le=100,
        description="IFEval prompts, strict, that may be lost; the 541 tell some 2.4 points",
    )
    bfcl_loss_points: float = Field(
        default=3,
        gt=0,
        le=100,
        description="BFCL cases that may be lost; the 1,040 of all categories tell some 2 points",
    )
    verbosity_ratio: float = Field(
        default=1.1,
        gt=1,
        description="most tokens of reply and thinking, as a multiple of the source's: more time "
        "and cost of each answer",
    )
    tool_format_points: float = Field(
        default=2,
        gt=0,
        le=100,
        description="replies to offered tools, the share whose calls are malformed, that may be "
        "added to the source's",
    )
    broken_text_points: float = Field(
        default=2,
        gt=0,
        le=100,
        description="replies that loop, turn to another script or are empty, the share that may be "
        "added to the source's",
    )
    mtp_accepted_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="smallest mean share of drafted tokens that is accepted; a head of another "
        "model has next to none, one that fits 0.6 to 0.9",
    )
    calibrated_share: float = Field(
        default=1,
        gt=0,
        le=1,
        description="smallest share of calibrated modules, or of experts, that samples reached",
    )
    weight_error: float = Field(
        default=0.2,
        gt=0,
        description="largest error of all quantized weights relative to the source's: rounding to "
        "NVFP4 leaves 0.1 and can't leave 0.2, unrelated weights leave 1.4",
    )

    def source_launch(self, launch: Launch) -> Launch:
        """How the bf16 source is served beside a release with this launch: it has no MTP head."""
        length = min(self.context_tokens, launch.max_model_len)
        return launch.model_copy(update={"speculative_tokens": 0, "max_model_len": length})
