"""A launch as flags: each once, with the reason why it is there.

The same list is the server's command while a release is measured and the text of its card.
"""

import json
from typing import TYPE_CHECKING

from scion.architectures.families import parsers_of
from scion.architectures.family import Family
from scion.engines.flag import Flag

if TYPE_CHECKING:
    # lint asks engines, and is to start without pydantic.
    from scion.engines.config import Launch

START = "vllm serve"


def flags(
    launch: "Launch", family: Family | None, *, quantized: bool, text_only: bool
) -> list[Flag]:
    """The options of `vllm serve` for a launch, in the order in which the card shows them.

    Args:
        launch: The launch.
        family: The row of the checkpoint's architecture, which names its parsers; None without.
        quantized: Whether the checkpoint declares ModelOpt's NVFP4, alone or beside FP8.
        text_only: Whether it has lost its vision tower.
    """
    chosen: list[Flag] = []
    if quantized:
        chosen.append(
            Flag(
                ("--quantization", "modelopt"),
                "reads the scheme that config.json declares",
            )
        )
    if text_only:
        chosen.append(
            Flag(
                ("--language-model-only",),
                "the architecture has a vision tower, this release does not: without the flag "
                "vLLM looks for it",
            )
        )
    if parsers := parsers_of(family, "vllm"):
        chosen += [
            Flag(
                ("--enable-auto-tool-choice", "--tool-call-parser", parsers.tools),
                "the model writes tool calls as XML functions, not as JSON in tags",
            ),
            Flag(
                ("--reasoning-parser", parsers.reasoning),
                "splits the `<think>` part off the answer",
            ),
        ]
    chosen.append(Flag(("--max-model-len", str(launch.max_model_len)), "context in tokens"))
    if launch.max_num_seqs is not None:
        chosen.append(
            Flag(
                ("--max-num-seqs", str(launch.max_num_seqs)),
                "requests decoded at once; each holds its own recurrent state and graph memory, "
                "so more of them need more memory than the KV cache shows",
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


def command(launch: "Launch", family: Family | None, model: str, *, text_only: bool) -> str:
    """The launch of a quantized release as a shell command, one option a line."""
    options = flags(launch, family, quantized=True, text_only=text_only)
    return " \\\n    ".join([f"{START} {model}", *(flag.text for flag in options)])
