"""What PEFT leaves behind, made with PEFT itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import PreTrainedModel

from lint_checkpoints import llama
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.shards import SINGLE
from scion.engines.registry.engines import DEFAULT_ENGINES
from scion.lint.all_rules import RULES
from scion.lint.rule import run, select_rules
from scion.lint.subject import Subject

TOKENS = torch.arange(8)[None]


@pytest.fixture
def adapted() -> PeftModel:
    """A tiny decoder with an adapter that changes what it says."""
    torch.manual_seed(0)
    sizes = {key: value for key, value in llama().items() if key not in ("architectures", "dtype")}
    config = transformers.AutoConfig.for_model(**sizes)
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, lora)
    assert isinstance(wrapped, PeftModel)
    return wrapped


def codes(folder: Path) -> set[str]:
    """The rules over files and names that find something."""
    subject = Subject.open(open_source(str(folder)), engines=DEFAULT_ENGINES)
    results = run(subject, select_rules(RULES, select=("F1", "N")))
    return {result.rule.code for result in results}


def save_state(model: PeftModel, folder: Path, *, adapter: bool) -> None:
    """Save the wrapped model's state, as trainers do that know nothing of PEFT."""
    folder.mkdir()
    state = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if adapter or ".lora_" not in name
    }
    save_file(state, folder / SINGLE, metadata={"format": "pt"})
    inner: Any = model.get_base_model()
    inner.config.save_pretrained(folder)


def test_the_state_of_a_wrapped_model_is_one_finding(adapted: PeftModel, tmp_path: Path) -> None:
    save_state(adapted, tmp_path / "merged", adapter=False)
    assert codes(tmp_path / "merged") == {"N210"}
    save_state(adapted, tmp_path / "not merged", adapter=True)
    assert codes(tmp_path / "not merged") == {"N210", "N202"}


def test_transformers_applies_an_adapter_that_lies_beside_merged_weights(
    adapted: PeftModel, tmp_path: Path
) -> None:
    adapted.save_pretrained(str(tmp_path))
    (tmp_path / "README.md").unlink()
    merged: Any = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert codes(tmp_path) == {"F110"}
    assert not torch.allclose(answer(tmp_path), merged(TOKENS).logits, atol=1e-4)
    for path in tmp_path.glob("adapter_*"):
        path.unlink()
    assert codes(tmp_path) == set()
    assert torch.allclose(answer(tmp_path), merged(TOKENS).logits, atol=1e-4)


@torch.inference_mode()
def answer(folder: Path) -> torch.Tensor:
    """The logits of whatever transformers makes of a folder."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model(TOKENS).logits
