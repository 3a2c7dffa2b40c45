"""Configuration of quantize_nvfp4."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from scion.common.section import Section, named_in
from scion.formats.modelopt import FP8, NVFP4, W4A16
from scion.quantization.recipe_table import RECIPES

RecipeName = Annotated[str, named_in(RECIPES)]
Projections = Literal["none", "linear_attention", "attention"]
CALIBRATION_FILES = "calibration_files"
"""The fact that says which files of the hub the samples are from: SHA-256 by location and name."""


class CalibrationSet(Section):
    """Samples of one file or data set."""

    dataset: str = Field(
        default="resources/pico/calibration.jsonl",
        description="local JSONL file with a `messages` or `text` column, or "
        "hf://datasets/owner/name@commit",
    )
    subset: str | None = Field(
        default=None, description="configuration of a hub data set, such as LLM"
    )
    split: str = Field(default="train", description="split of a hub data set")
    samples: int = Field(
        default=20, gt=0, le=1_000_000, description="number of samples, taken from the start"
    )
    max_tokens: int = Field(
        default=8192,
        gt=0,
        le=1 << 24,
        description="longer samples are cut to this many tokens, and to the model's context",
    )


class Calibration(Section):
    """The samples that activation scales are taken from."""

    sets: tuple[CalibrationSet, ...] = Field(
        default=(CalibrationSet(),), min_length=1, description="sets of samples, taken in order"
    )
    pack_tokens: int | None = Field(
        default=None,
        gt=0,
        le=1 << 24,
        description="tokens of a forward pass, at most, that takes several short samples, each "
        "as if it were alone; null: one sample a pass",
    )


def refuse_unused_fp8(keep_bf16: Projections, use_fp8: Projections) -> None:
    """Raise ValueError where no projection is left that could become FP8."""
    if use_fp8 != "none" and keep_bf16 in (use_fp8, "attention"):
        raise ValueError(
            f"use_fp8 {use_fp8} means projections that keep_bf16 {keep_bf16} leaves in bf16, "
            "and no others"
        )


class Quantization(Section):
    """How weights become NVFP4."""

    recipe: RecipeName = Field(
        default="local_hessian",
        description="how block scales are chosen: local_hessian searches those with the smallest "
        "error on the samples, nvfp4_default takes maxima, which is faster; all recipes give the "
        "same format (`snakemake recipes` makes and measures them)",
    )
    keep_bf16: Projections = Field(
        default="none",
        description="projections that stay bf16: of the gated delta nets, or of all attention",
    )
    use_fp8: Projections = Field(
        default="none",
        description="projections in FP8, weights and activations, instead of NVFP4: of the gated "
        "delta nets, or of all attention; those that keep_bf16 names stay bf16",
    )
    activations: Literal["nvfp4", "bf16"] = Field(
        default="nvfp4",
        description="what NVFP4 modules multiply their weights with: nvfp4 rounds their inputs as "
        "well (W4A4), with scales that are calibrated; bf16 leaves them as they are (W4A16), for "
        "GPUs without FP4 units",
    )
    calibration: Calibration = Calibration()
    input_scales: str | None = Field(
        default=None,
        description="local folder of an NVFP4 release of the same shape whose activation scales "
        "are taken instead of calibrating; for nvfp4_default, which needs samples for nothing else",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where calibration runs; auto takes a GPU if there is one"
    )
    max_shard_megabytes: int = Field(
        default=5000,
        gt=0,
        le=1_000_000,
        description="a shard is closed before it would grow past this (10^6 bytes)",
    )

    @property
    def four_bits(self) -> str:
        """The algorithm of modules in NVFP4."""
        return W4A16 if self.activations == "bf16" else NVFP4

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those that modules of the release have."""
        return (self.four_bits, *([FP8] if self.use_fp8 != "none" else []))

    @property
    def calibrated(self) -> bool:
        """Whether samples decide about anything."""
        needed = RECIPES[self.recipe].needs_samples or self.use_fp8 != "none"
        return needed or (self.activations == "nvfp4" and self.input_scales is None)

    @model_validator(mode="after")
    def _need_no_samples(self) -> "Quantization":
        if self.input_scales is not None and RECIPES[self.recipe].needs_samples:
            without = [row.name for row in RECIPES.values() if not row.needs_samples]
            raise ValueError(
                f"input_scales: the recipe {self.recipe} needs samples; "
                f"{', '.join(without)} {'does' if len(without) == 1 else 'do'} not"
            )
        if self.input_scales is not None and self.use_fp8 != "none":
            raise ValueError("input_scales: they are those of NVFP4, and use_fp8 needs others")
        if self.input_scales is not None and self.activations == "bf16":
            raise ValueError("input_scales: activations bf16 have no scales")
        return self

    @model_validator(mode="after")
    def _fp8_is_used(self) -> "Quantization":
        refuse_unused_fp8(self.keep_bf16, self.use_fp8)
        return self
