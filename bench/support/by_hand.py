"""What people type to look into a checkpoint before they serve it.

by_hand.py safe_open FOLDER       safetensors' reader: name, dtype and shape of every tensor
by_hand.py transformers FOLDER    AutoConfig first, then the same through torch
by_hand.py hub OWNER/NAME         the hub library's own reading of all headers, by ranges
"""

import json
import sys
from pathlib import Path


def safe_open(folder: Path, framework: str) -> int:
    """Look at every tensor of every shard; the number of tensors."""
    from safetensors import safe_open

    json.loads((folder / "config.json").read_bytes())
    index = json.loads((folder / "model.safetensors.index.json").read_bytes())["weight_map"]
    seen: dict[str, tuple[str, list[int]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework=framework) as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                seen[name] = part.get_dtype(), part.get_shape()
    if seen.keys() != index.keys():
        raise SystemExit("index and shards differ")
    return len(seen)


def transformers(folder: Path) -> int:
    """The same after transformers has read config.json."""
    from transformers import AutoConfig

    AutoConfig.from_pretrained(folder)
    return safe_open(folder, "pt")


def hub(repository: str) -> int:
    """The number of tensors that the hub library finds."""
    from huggingface_hub import HfApi

    return len(HfApi().get_safetensors_metadata(repository).weight_map)


def main() -> int:
    """Run what the arguments name."""
    kind, subject = sys.argv[1:]
    if kind == "hub":
        print(hub(subject))
    else:
        print(
            transformers(Path(subject))
            if kind == "transformers"
            else safe_open(Path(subject), "np")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
