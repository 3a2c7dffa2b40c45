"""What SGLang's own classes say about declarations and layers; run by its Python, never imported.

Reads questions as JSON lines from the first argument's file, writes an answer as JSON line for each
to the second's: by layer the algorithm, None, or `raises`; for a whole declaration what it was read
as. A declaration takes the way that `sglang.launch_server` takes it: `ModelConfig` finds the
method, `get_quant_config` builds the config, and the config answers for a layer that it is shown.
Only what that would be built from, kernels for a GPU, is replaced by the algorithm's name.
"""

# pyright: reportMissingImports=false
import copy
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

warnings.simplefilter("ignore")

from sglang.srt.configs.model_config import ModelConfig  # noqa: E402
from sglang.srt.layers.linear import LinearBase  # noqa: E402
from sglang.srt.layers.moe.fused_moe_triton import FusedMoE  # noqa: E402
from sglang.srt.layers.quantization import fp8, modelopt_quant  # noqa: E402
from sglang.srt.layers.quantization.compressed_tensors.compressed_tensors import (  # noqa: E402
    CompressedTensorsConfig,
)
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod  # noqa: E402
from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead  # noqa: E402
from sglang.srt.model_loader.weight_utils import get_quant_config  # noqa: E402
from sglang.srt.models import (  # noqa: E402
    llama,
    qwen2,
    qwen3,
    qwen3_5,
    qwen3_5_mtp,
    qwen3_5_text,
    qwen3_next,
    qwen3_next_mtp,
)

MODELS: dict[str, Any] = {
    model.__name__: model
    for model in (
        *(qwen3_5.Qwen3_5ForConditionalGeneration, qwen3_5.Qwen3_5MoeForConditionalGeneration),
        *(qwen3_5_text.Qwen3_5ForCausalLM, qwen3_5_text.Qwen3_5MoeForCausalLM),
        *(llama.LlamaForCausalLM, qwen2.Qwen2ForCausalLM, qwen3.Qwen3ForCausalLM),
        qwen3_next.Qwen3NextForCausalLM,
    )
}
RAISES = "raises"
# What a layer is built from, by the algorithm that it stands for.
METHODS = {
    (modelopt_quant, "ModelOptFp8LinearMethod"): "FP8",
    (modelopt_quant, "ModelOptFp8MoEMethod"): "FP8",
    (modelopt_quant, "ModelOptFp4LinearMethod"): "NVFP4",
    (modelopt_quant, "ModelOptNvFp4A16LinearMethod"): "W4A16_NVFP4",
    (modelopt_quant, "ModelOptNvFp4FusedMoEMethod"): "NVFP4",
    (modelopt_quant, "Fp8LinearMethod"): "FP8",
    (modelopt_quant, "Fp8MoEMethod"): "FP8",
    (fp8, "Fp8LinearMethod"): "FP8",
    (fp8, "Fp8MoEMethod"): "FP8",
    (fp8, "UnquantizedFusedMoEMethod"): None,
}
DRAFTS: dict[str, Any] = {
    "Qwen3_5": qwen3_5_mtp.Qwen3_5ForCausalLMMTP,
    "Qwen3Ne": qwen3_next_mtp.Qwen3NextForCausalLMMTP,
}
EXPERT_PARTS = ("gate_proj", "up_proj", "down_proj")


class ColumnParallelLinear(LinearBase):  # pyright: ignore[reportUntypedBaseClass]
    """Stands for each of the linear layers: compressed-tensors goes by the name of the class."""


LAYERS: dict[str, Any] = {
    **{"linear": ColumnParallelLinear, "head": ParallelLMHead, "experts": FusedMoE},
}


class Method:
    """Stands for a kernel: what it computes, and the config that it was made with."""

    def __init__(self, algorithm: str | None, config: Any) -> None:
        self.algorithm, self.config = algorithm, config
        if algorithm == "FP8" and getattr(config, "use_mxfp8", False):
            self.algorithm = "MXFP8"
        elif algorithm == "FP8" and getattr(config, "weight_block_size", None):
            self.algorithm = "FP8 in blocks"
        elif algorithm == "NVFP4" and config.is_w4a16:
            self.algorithm = "W4A16_NVFP4"


def replace_kernels() -> None:
    """Put a `Method` in place of each class that a layer would be built from."""

    def stand_in(algorithm: str | None) -> Callable[..., Method]:
        return lambda config=None, *arguments: Method(algorithm, config)

    for (module, name), algorithm in METHODS.items():
        assert hasattr(module, name), name
        setattr(module, name, stand_in(algorithm))


def configured(question: dict[str, Any], folder: Path) -> Any:
    """The config that SGLang builds for a model of a checkpoint; None for an unquantized one."""
    model = draft_of(question["model"]) if question.get("draft") else MODELS[question["model"]]
    # So no list is renamed.
    assert getattr(model, "hf_to_sglang_mapper", None) is None
    assert not hasattr(model, "get_hf_to_sglang_mapper")
    assert not hasattr(model, "remap_prefix")
    declaration = folder / "hf_quant_config.json"
    declaration.unlink(missing_ok=True)
    text = question.get("hf_quant_config")
    if text is not None:
        declaration.write_text(json.dumps(text))
    config = Config(question["config"])
    config.architectures = [question["model"]]
    wanted = object.__new__(ModelConfig)
    vars(wanted).update(
        hf_config=config,
        model_path=str(folder),
        quantization=None,
        is_draft_model=False,
        is_draft_quantization_explicit=False,
    )
    wanted._verify_quantization()
    if wanted.quantization is None:
        return None
    packed = getattr(model, "packed_modules_mapping", {})
    return get_quant_config(wanted, SimpleNamespace(download_dir=None), packed)


class Config(dict[str, Any]):
    """A parsed config.json, of which SGLang asks for attributes here and keys there."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def draft_of(name: str) -> Any:
    """The class of a model's MTP head."""
    return DRAFTS[name[:7]]


def of_draft(built: Any, name: str) -> Any:
    """What the MTP head makes of the config; None where it is built unquantized."""
    takes_all = draft_of(name) is qwen3_next_mtp.Qwen3NextForCausalLMMTP
    return built if takes_all else qwen3_5_mtp._mtp_quant_config(built)


def answer(built: Any, layer: str, kind: str) -> str | None:
    """What a layer is built as."""
    if built is None:
        return None
    shown = object.__new__(LAYERS[kind])
    if isinstance(built, CompressedTensorsConfig):
        return compressed(built, layer, shown)
    if kind == "experts":
        shown.__dict__.update(use_triton_kernels=False, use_flashinfer_trtllm_moe=False)
    method = built.get_quant_method(shown, layer)
    if method is None or isinstance(method, UnquantizedLinearMethod):
        return None
    # Of a mixed declaration's two, one is for activations of 16 bits, and nothing in it says so.
    weights_only = method.config is getattr(built, "nvfp4a16_config", method)
    return "W4A16_NVFP4" if weights_only else method.algorithm


def compressed(built: CompressedTensorsConfig, layer: str, shown: Any) -> str | None:
    """The group of a compressed-tensors checkpoint's layer, as `get_quant_method` looks it up."""
    if isinstance(shown, FusedMoE):
        built._add_fused_moe_to_target_scheme_map()
        schemes = [built.get_scheme_dict(shown, f"{layer}.0.{part}") for part in EXPERT_PARTS]
        if any(scheme != schemes[0] for scheme in schemes):
            raise ValueError("several schemes")
        return algorithm(schemes[0])
    if not isinstance(shown, ParallelLMHead):
        return algorithm(built.get_scheme_dict(shown, layer))
    # Where it has the group, it goes on as for a linear layer.
    built.get_linear_scheme = lambda layer, layer_name, matched_target: built.get_scheme_dict(
        layer, layer_name, matched_target
    )
    return algorithm(built.get_lm_head_scheme(shown, layer))


def algorithm(scheme: Any) -> str | None:
    """A group in ModelOpt's words."""
    if scheme is None:
        return None
    if scheme["weights"].num_bits == 8:
        return "FP8"
    return "NVFP4" if scheme["input_activations"] else "W4A16_NVFP4"


def declared(built: Any) -> list[Any] | None:
    """What a declaration was read as: method, algorithm, exclusion list."""
    if built is None:
        return None
    name, listed = built.get_name(), getattr(built, "ignore", None)
    if name.startswith("modelopt"):
        listed = built.exclude_modules
        # A list of the wrong type fails only when it is used.
        answer(built, "model.layers.0.mlp.down_proj", "linear")
        if name == "modelopt_fp4":
            name = "W4A16_NVFP4" if built.is_w4a16 else "NVFP4_AWQ" if built.is_awq else "NVFP4"
    elif name == "fp8":
        listed = built.ignored_layers
    return [name, *(listed or ())]


def model(name: str) -> dict[str, Any]:
    """What a model class, and its draft model's, say of their fused layers."""
    target = MODELS[name]
    mappings = {"fused": getattr(target, "packed_modules_mapping", {})}
    if name[:7] in DRAFTS:
        mappings["draft_fused"] = draft_of(name).packed_modules_mapping
    return mappings


def answers(question: dict[str, Any], folder: Path) -> Any:
    """The answer to each layer of a question."""
    question = copy.deepcopy(question)
    if question["kind"] == "model":
        return model(question["model"])
    try:
        built = configured(question, folder)
        if question["kind"] == "declared":
            return declared(built)
    except Exception:
        return RAISES
    if question["draft"]:
        built = of_draft(built, question["model"])
    schemes: list[str | None] = []
    for layer, kind in question["layers"]:
        try:
            schemes.append(answer(built, layer, kind))
        except Exception:
            schemes.append(RAISES)
    return schemes


def main() -> None:
    """Answer every question of the first file into the second."""
    logging.disable(logging.CRITICAL)
    replace_kernels()
    questions, output = (Path(argument) for argument in sys.argv[1:])
    with (
        tempfile.TemporaryDirectory() as folder,
        questions.open() as lines,
        output.open("w") as answered,
    ):
        for line in lines:
            print(json.dumps(answers(json.loads(line), Path(folder))), file=answered)


if __name__ == "__main__":
    main()
