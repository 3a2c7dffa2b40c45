"""Configuration of compare_recipes."""

from typing import Literal

from pydantic import Field, model_validator

from scion.common.section import Section
from scion.quantization.config import Projections, RecipeName, refuse_unused_fp8
from scion.quantization.recipe_table import RECIPES, REFERENCE


class Variant(Section):
    """One way to quantize the source."""

    recipe: RecipeName = Field(description="as quantization.recipe")
    keep_bf16: Projections = Field(default="none", description="as quantization.keep_bf16")

    use_fp8: Projections = Field(default="none", description="as quantization.use_fp8")

    @property
    def name(self) -> str:
        """As results name it; fit for a file's name."""
        kept = "" if self.keep_bf16 == "none" else f"-{self.keep_bf16}"
        fp8 = "" if self.use_fp8 == "none" else f"-fp8-{self.use_fp8}"
        return f"{self.recipe}{kept}{fp8}"

    @model_validator(mode="after")
    def _fp8_is_used(self) -> "Variant":
        refuse_unused_fp8(self.keep_bf16, self.use_fp8)
        return self


_MIXED: tuple[Literal["linear_attention", "attention"], ...] = ("linear_attention", "attention")


def _every_recipe() -> tuple[Variant, ...]:
    """Each recipe of the table, and the reference with some projections in FP8 or in bf16."""
    return (
        *(Variant(recipe=name) for name in RECIPES),
        *(Variant(recipe=REFERENCE, use_fp8=mixed) for mixed in _MIXED),
        *(Variant(recipe=REFERENCE, keep_bf16=mixed) for mixed in _MIXED),
    )


class Comparison(Section):
    """What compare_recipes makes of the source, and how long it looks at each.

    Held-out text, prompts and the data to calibrate with are those of the other sections.
    """

    variants: tuple[Variant, ...] = Field(
        default_factory=_every_recipe,
        min_length=1,
        description="recipes to compare; nvfp4_default is the one that others are held against",
    )
    samples: int = Field(
        default=16, gt=1, description="number of chats, and of texts at most, from the start"
    )
    max_tokens: int = Field(default=1000, gt=1, description="longer ones are cut to so many tokens")
    acceptance_prompts: int | None = Field(
        default=16,
        gt=0,
        description="prompts of measurement.prompts to count MTP acceptance on, without a server; "
        "null leaves that out",
    )
    reply_tokens: int = Field(default=64, gt=0, description="longest reply to those prompts")
    draft_tokens: int = Field(default=3, gt=0, description="MTP drafts a step")
    agent_cases: int | None = Field(
        default=4,
        gt=0,
        description="cases of each agent task, from the start, on a server of each variant; null "
        "leaves that out",
    )

    @model_validator(mode="after")
    def _name_each_once(self) -> "Comparison":
        names = [variant.name for variant in self.variants]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"variants: {twice[0]} stands there twice")
        return self
