"""A GGUF file as a bf16 checkpoint with its tokenizer: `python from_gguf.py FILE FOLDER`.

A process of its own: transformers looks for the package `gguf` once, when it is imported.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Decode the first argument into the second."""
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    # Of SmolLM2's file transformers takes the token that begins a turn for the one that ends it.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
