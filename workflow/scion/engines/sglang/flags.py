"""A launch as flags of SGLang's server. Untried: no release was ever served with them.

SGLang 0.5.23 takes every one of them (a test asks its own argument parser) and knows the model
class and its MTP head; that is all that is known here.
"""

from typing import TYPE_CHECKING

from scion.architectures.families import parsers_of
from scion.engines.flag import Flag
from scion.engines.served_model import ServedModel
from scion.formats.modelopt import FP8, MIXED

if TYPE_CHECKING:
    # lint asks engines, and is to start without pydantic.
    from scion.engines.config import Launch

START = "python -m sglang.launch_server --model-path"
# Its name of ModelOpt's algorithms, other than the spellings of NVFP4.
_METHODS = {MIXED: "modelopt_mixed", FP8: "modelopt_fp8"}
UNTRIED = "untried: SGLang 0.5.23 accepts these options; nobody has served this release with them"


def flags(launch: "Launch", model: ServedModel) -> list[Flag]:
    """The options of `python -m sglang.launch_server` for a launch.

    Args:
        launch: The launch.
        model: The checkpoint that it serves.
    """
    chosen: list[Flag] = []
    if model.algorithm is not None:
        method = _METHODS.get(model.algorithm, "modelopt_fp4")
        chosen.append(
            Flag(("--quantization", method), "reads the scheme that config.json declares")
        )
    if model.lost_tower:
        chosen.append(
            Flag(
                ("--language-model-only",),
                "the architecture has a vision tower, this release does not: without the flag "
                "SGLang stops as it looks for the tower's processor",
            )
        )
    if parsers := parsers_of(model.family, "sglang"):
        chosen.append(
            Flag(
                ("--tool-call-parser", parsers.tools),
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
    chosen.append(Flag(("--context-length", str(launch.max_model_len)), "context in tokens"))
    if launch.max_num_seqs is not None:
        chosen.append(
            Flag(("--max-running-requests", str(launch.max_num_seqs)), "requests decoded at once")
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
                ("--kv-cache-dtype", "fp8_e4m3"),
                "halves the KV cache; this release carries no KV scales, so the scale is 1",
            )
        )
    if launch.gpu_memory_utilization is not None:
        chosen.append(
            Flag(
                ("--mem-fraction-static", f"{launch.gpu_memory_utilization:g}"),
                "share of the GPU for weights and cache; other than in vLLM, activations and CUDA "
                "graphs come on top, so less may be needed",
            )
        )
    if launch.speculative_tokens:
        chosen.append(
            Flag(
                (
                    *("--speculative-algorithm", "NEXTN"),
                    *("--speculative-num-steps", str(launch.speculative_tokens)),
                    *("--speculative-eagle-topk", "1"),
                    *("--speculative-num-draft-tokens", str(launch.speculative_tokens + 1)),
                ),
                f"the one MTP layer drafts {launch.speculative_tokens} tokens a step, one after "
                "the other; SGLang counts the token before them as well",
            )
        )
    return chosen
