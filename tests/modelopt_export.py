"""ModelOpt's own export of a text model, calibrated on chats, without Scion.

`python modelopt_export.py MODEL CHATS NUMBER TARGET`, as a program, so that a process of its own
computes, whose libraries nothing has set up otherwise before.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Calibrate and export."""
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoTokenizer, Qwen3_5ForCausalLM

    folder, calibration, number, target = sys.argv[1:]
    model = Qwen3_5ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with Path(calibration).open() as lines:
        chats = [json.loads(line) for line in lines][: int(number)]
    messages = [message for chat in chats for message in chat["messages"]]
    for call in [
        call["function"] for message in messages for call in message.get("tool_calls", [])
    ]:
        call["arguments"] = json.loads(call["arguments"])

    def forward(model: Any) -> None:
        for chat in chats:
            ids = tokenizer.apply_chat_template(
                chat["messages"], tools=chat.get("tools"), return_tensors="pt", return_dict=False
            )
            model(input_ids=ids, use_cache=False)

    torch.set_num_threads(1)
    with torch.no_grad():
        mtq.quantize(model, mtq.NVFP4_DEFAULT_CFG, forward)
    model.config.architectures = ["Qwen3_5ForCausalLM"]
    export_hf_checkpoint(model, export_dir=target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
