"""What transformers makes of the source before and after fix_keys, and what it was before it broke.

`resources/pico/reference.json` was written while pico-agent still had sound keys.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from conversion import Conversion, Pico


@pytest.fixture(scope="module")
def reference(pico: Pico) -> dict[str, Any]:
    return json.loads((pico.folder / "reference.json").read_bytes())


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    loaded: Any = Qwen3_5ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    model, report = loaded
    return model.eval(), report


def logits(model: Any, reference: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([reference["logits"]["input_ids"]])
        return model(input_ids=ids, use_cache=False).logits


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def test_transformers_finds_no_weight_of_the_broken_source(
    pico: Pico, reference: dict[str, Any]
) -> None:
    _, report = load(pico.agent)
    assert set(report["missing_keys"]) == set(reference["tensors"])


def test_it_finds_all_weights_of_the_fixed_one(conversion: Conversion) -> None:
    _, report = load(conversion.fix_keys.folder)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]


def test_the_fixed_tensors_are_those_from_before_the_break(
    conversion: Conversion, reference: dict[str, Any]
) -> None:
    rows = conversion.fix_keys.tensors()
    assert {name: (row["shape"], row["sha256"]) for name, row in rows.items()} == {
        name: (row["shape"], row["sha256"]) for name, row in reference["tensors"].items()
    }


def test_the_fixed_logits_are_those_from_before_the_break(
    conversion: Conversion, pico: Pico, reference: dict[str, Any]
) -> None:
    fixed, _ = load(conversion.fix_keys.folder)
    found = logits(fixed, reference)
    assert list(found.shape) == reference["logits"]["shape"]
    # The sound model, built here without Scion: each tensor is found by its digest of that time.
    shards = (load_file(path) for path in sorted(pico.agent.glob("*.safetensors")))
    by_digest = {sha256(tensor): tensor for shard in shards for tensor in shard.values()}
    config = Qwen3_5Config.from_pretrained(pico.agent)
    # Not `.to(bfloat16)`: that would round the rotary frequencies, which from_pretrained does not.
    sound = Qwen3_5ForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    tensors = {name: by_digest[row["sha256"]] for name, row in reference["tensors"].items()}
    sound.load_state_dict(tensors)
    assert torch.equal(found, logits(sound, reference))
    # Another CPU sums bf16 in another order, so the recorded bits need not come out there.
    if sha256(found) != reference["logits"]["sha256"]:
        same = found[0].argmax(-1) == torch.tensor(reference["logits"]["argmax"])
        assert same.float().mean() > 0.9
