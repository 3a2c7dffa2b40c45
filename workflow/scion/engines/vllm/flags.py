"""A launch as flags: each once, with the reason why it is there.

The same list is the server's command while a release is measured and the text of its card.
"""

import json
from typing import TYPE_CHECKING

from scion.architectures.families import parsers_of
from scion.engines.flag import Flag
from scion.engines.served_model import ServedModel

if TYPE_CHECKING:
    # lint asks engines, and is to start without pydantic.
    from scion.engines.config import Launch

START = "vllm serve"


def flags(launch: "Launch", model: ServedModel) -> list[Flag]:
    """The options of vLLM's server for a launch, in the order in which they are shown.

    Args:
        launch: The launch.
        model: The checkpoint that it serves.
    """
    chosen: list[Flag] = []
    if model.algorithm is not None:
        chosen.append(
            Flag(("--quantization", "modelopt"), "reads the scheme that config.json declares")
        )
    if model.lost_tower:
        chosen.append(
            Flag(
                ("--language-model-only",),
                "the architecture has a vision tower, this release does not: without the flag "
                "vLLM looks for it",
            )
        )
    if parsers := parsers_of(model.family, "vllm"):
        chosen.append(
            Flag(
                ("--enable-auto-tool-choice", "--tool-call-parser", parsers.tools),
                f"the family writes tool calls as {parsers.calls}, which this parser reads",
            )
        )
        if parsers.reasoning is not None:
            chosen.append(
                Flag(
                    ("--reasoning-parser", parsers.reasoning),
                    "splits the `<think>` part off the answer",
                )
            )
    chosen.append(Flag(("--max-model-len", str(launch.max_model_len)), "context in tokens"))
    if launch.max_num_seqs is not None:
        chosen.append(
            Flag(
                ("--max-num-seqs", str(launch.max_num_seqs)),
                "requests decoded at once"
                + (
                    "; each holds its own recurrent state and graph memory, so more of them need "
                    "more memory than the KV cache shows"
                    if model.family is not None and model.family.decoder.delta_net != "none"
                    else ""
                ),
            )
        )
    if launch.tensor_parallel > 1:
        chosen.append(
            Flag(
                ("--tensor-parallel-size", str(launch.tensor_parallel)),
                "GPUs that share every layer; each holds its part of weights and cache",
            )
        )
    if launch.kv_cache_dtype == "fp8":
        chosen.append(
            Flag(
                ("--kv-cache-dtype", "fp8"),
                "halves the KV cache; this release carries no KV scales, so the scale is 1",
            )
        )
    if launch.gpu_memory_utilization is not None:
        chosen.append(
            Flag(
                ("--gpu-memory-utilization", f"{launch.gpu_memory_utilization:g}"),
                "share of the GPU's memory that vLLM may take",
            )
        )
    if launch.speculative_tokens:
        speculation = {"method": "mtp", "num_speculative_tokens": launch.speculative_tokens}
        chosen.append(
            Flag(
                ("--speculative-config", json.dumps(speculation, separators=(",", ":"))),
                f"the one MTP layer drafts {launch.speculative_tokens} tokens a step, run that "
                "often on its own output",
            )
        )
    return chosen
