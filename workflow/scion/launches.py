"""The launches that a card recommends: each flag once, with the reason why it is there."""

import json
from dataclasses import dataclass

from scion.config import Launch


@dataclass(frozen=True)
class Flag:
    """One option of `vllm serve` and what it is for."""

    text: str
    reason: str


def flags(launch: Launch, *, text_only: bool) -> list[Flag]:
    """The options of a launch, in the order in which the card shows them.

    Args:
        launch: The launch.
        text_only: Whether the release has lost its vision tower.
    """
    chosen = [
        Flag("--quantization modelopt", "reads the NVFP4 scheme that config.json declares"),
    ]
    if text_only:
        chosen.append(
            Flag(
                "--language-model-only",
                "the architecture has a vision tower, this release does not: without the flag "
                "vLLM looks for it",
            )
        )
    chosen += [
        Flag(
            "--enable-auto-tool-choice --tool-call-parser qwen3_xml",
            "the model writes tool calls as XML functions, not as JSON in tags",
        ),
        Flag("--reasoning-parser qwen3", "splits the `<think>` part off the answer"),
        Flag(f"--max-model-len {launch.max_model_len}", "context in tokens"),
    ]
    if launch.max_num_seqs is not None:
        chosen.append(
            Flag(
                f"--max-num-seqs {launch.max_num_seqs}",
                "requests decoded at once; each holds its own recurrent state and graph memory, "
                "so more of them need more memory than the KV cache shows",
            )
        )
    if launch.kv_cache_dtype == "fp8":
        chosen.append(
            Flag(
                "--kv-cache-dtype fp8",
                "halves the KV cache; this release carries no KV scales, so the scale is 1",
            )
        )
    if launch.gpu_memory_utilization is not None:
        chosen.append(
            Flag(
                f"--gpu-memory-utilization {launch.gpu_memory_utilization:g}",
                "share of the GPU's memory that vLLM may take",
            )
        )
    if launch.speculative_tokens:
        speculation = {"method": "mtp", "num_speculative_tokens": launch.speculative_tokens}
        chosen.append(
            Flag(
                f"--speculative-config '{json.dumps(speculation, separators=(',', ':'))}'",
                f"the one MTP layer drafts {launch.speculative_tokens} tokens a step, run that "
                "often on its own output",
            )
        )
    return chosen


def command(launch: Launch, model: str, *, text_only: bool) -> str:
    """The launch as a shell command, one option a line."""
    lines = [f"vllm serve {model}", *(flag.text for flag in flags(launch, text_only=text_only))]
    return " \\\n    ".join(lines)
