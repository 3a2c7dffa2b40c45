"""llm-compressor's own path to an NVFP4 release, calibrated on chats, without Scion.

    python bench/support/llmcompressor_export.py MODEL CHATS NUMBER TARGET

MODEL is a text model in bf16, such as the artifact of `extract_text`; CHATS are JSON lines, of
which the first NUMBER are taken. Needs an environment of its own: llmcompressor 0.14.0.1 asks for
another transformers than Scion does, and pins compressed-tensors 0.19.0. `scion audit TARGET
--source SOURCE` of what it made of the embedded agent is in docs/measurements/audit-foreign.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

# What the family keeps in bf16: its convolution and the two small projections beside it.
_KEPT = ["lm_head", "re:.*conv1d.*", "re:.*in_proj_a$", "re:.*in_proj_b$"]


def main() -> int:
    """Calibrate and export."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot  # pyright: ignore[reportMissingImports]
    from llmcompressor.modifiers.quantization import (  # pyright: ignore[reportMissingImports]
        QuantizationModifier,
    )
    from transformers import AutoTokenizer, Qwen3_5ForCausalLM

    folder, calibration, number, target = sys.argv[1:]
    model = Qwen3_5ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with Path(calibration).open() as lines:
        chats = [json.loads(line) for line in lines][: int(number)]
    for chat in chats:
        for call in [c for m in chat["messages"] for c in m.get("tool_calls") or []]:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    samples = [
        tokenizer.apply_chat_template(chat["messages"], tools=chat.get("tools"), return_dict=False)
        for chat in chats
    ]
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=Dataset.from_list(
            [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples]
        ),
        recipe=QuantizationModifier(targets="Linear", scheme="NVFP4", ignore=_KEPT),
        max_seq_length=2048,
        num_calibration_samples=len(samples),
    )
    model.save_pretrained(target, save_compressed=True)
    tokenizer.save_pretrained(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
