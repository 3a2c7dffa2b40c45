"""Configuration of what a run keeps on the disk."""

from pydantic import Field

from scion.common.section import Section


class Scratch(Section):
    """What a run keeps of the weights that no release consists of."""

    drop_weights: bool = Field(
        default=False,
        description="true removes the weights of source, repaired, text and quantized model from "
        "the store once the last stage that reads them has ended; a later run that needs them has "
        "them made again",
    )
    sources: int | None = Field(
        default=None,
        gt=0,
        description="a further source is fetched only when all but so many of the earlier ones, "
        "and what is made of them, have been read for the last time; null: all at once",
    )
