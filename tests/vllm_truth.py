"""What vLLM's own classes say about declarations and layers; run by vLLM's Python, never imported.

Reads questions as JSON lines from the first argument's file, writes an answer as JSON line for each
to the second's: by layer, or for a whole declaration, the algorithm, None, or `raises`.
"""

# pyright: reportMissingImports=false
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm.model_executor.layers.quantization import get_quantization_config
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
    CompressedTensorsConfig,
)
from vllm.model_executor.layers.quantization.fp8 import Fp8Config
from vllm.model_executor.layers.quantization.modelopt import (
    LINEAR_ALGOS,
    ModelOptMixedPrecisionConfig,
    ModelOptNvFp4Config,
)
from vllm.model_executor.layers.quantization.utils.quant_utils import is_layer_skipped
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeForConditionalGeneration,
)
from vllm.model_executor.models.qwen3_5_mtp import Qwen3_5MoeMTP, Qwen3_5MTP
from vllm.model_executor.models.qwen3_moe import Qwen3MoeForCausalLM
from vllm.model_executor.models.qwen3_next import Qwen3NextForCausalLM
from vllm.model_executor.models.qwen3_next_mtp import Qwen3NextMTP
from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

MODELS = {
    model.__name__: model
    for model in (
        *(Qwen3_5ForConditionalGeneration, Qwen3_5MoeForConditionalGeneration),
        *(Qwen3_5ForCausalLM, Qwen3_5MoeForCausalLM, Qwen3MoeForCausalLM),
        *(LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3NextForCausalLM),
    )
}
RAISES = "raises"
Answer = Callable[[str, str], str | None]


class Linear:
    """Stands for vLLM's linear layers, each of which has this name in its own."""


class ParallelLMHead:
    """Stands for the head."""


def draft_of(name: str) -> Any:
    """The class of a model's MTP head."""
    if name == "Qwen3NextForCausalLM":
        return Qwen3NextMTP
    return Qwen3_5MoeMTP if "Moe" in name else Qwen3_5MTP


def configure(quantization: Any, question: dict[str, Any]) -> Any:
    """Do to a quantization what `initialize_model` does for the target, then for the draft."""
    model = MODELS[question["model"]]
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is not None:
        quantization.apply_vllm_mapper(mapper.get_rename_mapper())
    quantization.packed_modules_mapping = model.packed_modules_mapping
    if question["draft"]:
        mtp = draft_of(model.__name__)
        assert getattr(mtp, "hf_to_vllm_mapper", None) is None
        quantization.packed_modules_mapping = mtp.packed_modules_mapping
    return quantization


def modelopt(question: dict[str, Any]) -> Answer:
    """`is_layer_excluded` of an NVFP4 checkpoint."""
    built = configure(
        ModelOptNvFp4Config.from_config(question["config"]["quantization_config"]), question
    )
    return lambda layer, kind: None if built.is_layer_excluded(layer) else built.quant_method


def mixed(question: dict[str, Any]) -> Answer:
    """The algorithm of a mixed-precision checkpoint's layer, if vLLM has a method for it."""
    built = configure(
        ModelOptMixedPrecisionConfig.from_config(question["config"]["quantization_config"]),
        question,
    )

    def answer(layer: str, kind: str) -> str | None:
        algorithm = None if built.is_layer_excluded(layer) else built._resolve_quant_algo(layer)
        return algorithm if algorithm in LINEAR_ALGOS else None

    return answer


def fp8(question: dict[str, Any]) -> Answer:
    """Whether an FP8 checkpoint's layer is skipped."""
    built = configure(Fp8Config.from_config(question["config"]["quantization_config"]), question)
    skipped = (built.ignored_layers, built.packed_modules_mapping)
    return lambda layer, kind: None if is_layer_skipped(layer, *skipped) else "FP8"


def compressed(question: dict[str, Any]) -> Answer:
    """The group of a compressed-tensors checkpoint's layer."""
    built = configure(
        CompressedTensorsConfig.from_config(question["config"]["quantization_config"]), question
    )

    def scheme(layer: str, module: Any) -> str | None:
        scheme_dict = built.get_scheme_dict(module, layer)
        if scheme_dict is None:
            return None
        if scheme_dict["weights"].num_bits == 8:
            return "FP8"
        return "NVFP4" if scheme_dict["input_activations"] else "W4A16_NVFP4"

    def answer(layer: str, kind: str) -> str | None:
        if kind == "head":
            return scheme(layer, ParallelLMHead())
        if kind != "experts":
            return scheme(layer, Linear())
        parts = ("gate_proj", "up_proj", "down_proj")
        schemes = {scheme(f"{layer}.0.{part}", Linear()) for part in parts}
        if len(schemes) > 1:
            raise ValueError("several schemes")
        return schemes.pop()

    return answer


def model(name: str) -> dict[str, Any]:
    """What a model class says of its fused layers and renames, and its draft model's class."""
    model = MODELS[name]
    mtp = draft_of(name)
    mapper = model.hf_to_vllm_mapper.get_rename_mapper()
    other_renames = (mapper.orig_to_new_regex, mapper.orig_to_new_substr, mapper.orig_to_new_suffix)
    assert not any(other_renames)
    return {
        "fused": model.packed_modules_mapping,
        "draft_fused": mtp.packed_modules_mapping,
        "renames": mapper.orig_to_new_prefix,
    }


def declared(config: dict[str, Any]) -> str | None:
    """Read a whole declaration as `ModelConfig` and `get_quant_config` do."""
    holder = SimpleNamespace(quantization_config=config)
    convertor = ModelArchConfigConvertorBase(holder, holder)
    normalized = convertor._normalize_quantization_config(holder)
    method = normalized["quant_method"]
    for name in ("modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed"):
        override = get_quantization_config(name).override_quantization_method(normalized, None)
        if override is not None:
            method = override
            break
    if method == "":
        return None
    built = get_quantization_config(method).from_config(normalized)
    # A list of the wrong type fails only when it is used.
    built.apply_vllm_mapper(Qwen3_5ForConditionalGeneration.hf_to_vllm_mapper.get_rename_mapper())
    if method.startswith("modelopt"):
        built.is_layer_excluded("language_model.model.layers.0.mlp.down_proj")
    return getattr(built, "quant_method", method)


KINDS = {"modelopt": modelopt, "mixed": mixed, "fp8": fp8, "compressed": compressed}


def answers(question: dict[str, Any]) -> Any:
    """The answer to each layer of a question."""
    question = copy.deepcopy(question)
    if question["kind"] == "model":
        return model(question["model"])
    try:
        if question["kind"] == "declared":
            return declared(question["declared"])
        ask = KINDS[question["kind"]](question)
    except Exception:
        return RAISES
    schemes: list[str | None] = []
    for layer, kind in question["layers"]:
        try:
            schemes.append(ask(layer, kind))
        except Exception:
            schemes.append(RAISES)
    return schemes


def main() -> None:
    """Answer every question of the first file into the second."""
    questions, output = (Path(argument) for argument in sys.argv[1:])
    with questions.open() as lines, output.open("w") as answered:
        for line in lines:
            print(json.dumps(answers(json.loads(line))), file=answered)


if __name__ == "__main__":
    main()
