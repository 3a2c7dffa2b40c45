"""Failures that somebody has seen and that no sum explains: data, with the conditions of each.

The one failure that is known was looked for in the code of that time: the graphs of four requests
of four tokens are ten, those of two are seven, some 0.06 GiB more, while a tenth of the GPU lay
outside vLLM's share. So nothing was computed from it, and it is told as what it is.
"""

from dataclasses import dataclass

from scion.engines.config import Launch
from scion.engines.gpus import GIB


@dataclass(frozen=True)
class Observation:
    """A failure, and the launches that it is told of: those that ask for as much or more.

    Attributes:
        kv_cache_dtype: The cache's dtype.
        context: Least `--max-model-len`.
        requests: Least number of requests decoded at once.
        drafts: Fewest drafts a step.
        hidden: Least width of the model.
        total: Largest GPU, in bytes.
        text: What happened, and on what.
        next_step: What went well instead.
        source: Who saw it.
    """

    kv_cache_dtype: str
    context: int
    requests: int
    drafts: int
    hidden: int
    total: int
    text: str
    next_step: str
    source: str

    def holds(self, launch: Launch, *, requests: int, hidden: int, total: int) -> bool:
        """Whether a launch asks for as much on no larger a GPU.

        Args:
            launch: The launch.
            requests: Requests decoded at once.
            hidden: Width of the model.
            total: The GPU's memory in bytes.
        """
        return (
            launch.kv_cache_dtype == self.kv_cache_dtype
            and launch.max_model_len >= self.context
            and requests >= self.requests
            and launch.speculative_tokens >= self.drafts
            and hidden >= self.hidden
            and total <= self.total
        )


OBSERVATIONS = (
    Observation(
        kv_cache_dtype="fp8",
        context=262_144,
        requests=4,
        drafts=3,
        hidden=5120,
        total=96 * GIB,
        text="seen on vLLM 0.19.1rc1 and an RTX PRO 6000 Blackwell (96 GB): a 27B model with 256K "
        "context, FP8 cache, 3 drafts and --max-num-seqs 4 ran out of memory without a word while "
        "CUDA graphs were captured. From 0.21 on graphs are subtracted before the cache is made; "
        "nobody is known to have tried it again",
        next_step="--max-num-seqs 2, which served there",
        source="the model card of sakamakismile/Carnice-V2-27b-NVFP4-TEXT-MTP",
    ),
)
