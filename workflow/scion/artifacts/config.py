"""Configuration of what a run keeps on the disk."""

from pydantic import Field

from scion.common.section import Section


class Scratch(Section):
    """What a run keeps of the weights that no release consists of."""

    drop_weights: bool = Field(
        default=False,
        description="true removes weights that no release consists of (of source, base model, "
        "donor, repaired, text and quantized model) from the store once the last stage that reads "
        "them has ended; a later run that reads them has them made again",
    )
    sources: int | None = Field(
        default=None,
        gt=0,
        description="so many sources, with what is made of them, are there at once: a further one "
        "is fetched when all stages have ended that read the weights of the one so many before it; "
        "null: no limit",
    )
