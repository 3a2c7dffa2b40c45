"""Rules over checkpoints that a tool has laid out in a way of its own."""

from collections import Counter
from collections.abc import Iterable

from scion.checkpoint.safetensors_file import Tensor
from scion.lint.modules import FLOATS, HEAD
from scion.lint.naming import names_of
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.stacks import PACKED_STACK
from scion.lint.subject import ADAPTER, ADAPTER_CONFIG, Subject

_ROUTERS = (".mlp.gate.weight", ".mlp.shared_expert_gate.weight")


@rule(
    "N209",
    "packed-experts",
    Severity.ERROR,
    "experts are quantized as one tensor, which vLLM and SGLang do not read",
    repair="quantize the experts one by one (`experts.0.gate_proj`, …), as ModelOpt does where it "
    "knows the model's class, or leave the stack in bf16 and exclude it: `*.mlp.experts*`",
    seen=(
        "https://github.com/vllm-project/vllm/issues/46641",
        "https://github.com/vllm-project/vllm/issues/49638",
        "https://github.com/NVIDIA/Model-Optimizer/issues/2276",
        "https://github.com/unslothai/unsloth/issues/6224",
    ),
)
def packed_experts(subject: Subject) -> Iterable[Finding]:
    """A quantizer took the stacked experts of a layer for one weight and packed it in place.

    In bf16 engines take `experts.gate_up_proj` and `experts.down_proj` apart. Of NVFP4 they read
    experts one by one alone: scales called `experts.gate_up_proj_weight_scale`, or codes called
    `experts.gate_up_proj_packed`, are the parameters of no layer. SGLang and older vLLM drop them
    without a word and serve whatever was in memory; newer vLLM stops with "has no parameter". To
    transformers the codes are weights of another shape.
    """
    if subject.formats is None:
        return
    for stack in subject.stacks.values():
        if stack.stored == PACKED_STACK:
            found = ", ".join(
                f"*{part.name[len(stack.name) :]} {part.dtype}"
                for part in sorted(stack.parts, key=lambda part: part.name)
            )
            yield Finding(subject.names_file, stack.name, "each expert by itself, or bf16", found)


@rule(
    "N210",
    "peft-names",
    Severity.ERROR,
    "tensors have the names that PEFT gives them while an adapter is attached",
    repair="take `base_model.model.` and `.base_layer` out of the names; no tensor byte has to "
    "move. Or merge and save again: `model.merge_and_unload().save_pretrained(…)`",
    command=workflow_until("fix_keys"),
    stage="fix_keys",
    seen=(
        "https://github.com/OpenGVLab/InternVL/issues/548",
        "https://github.com/mbzuai-oryx/LLaVA-pp/issues/18",
    ),
)
def peft_names(subject: Subject) -> Iterable[Finding]:
    """The state of a PeftModel was saved, not that of the model inside.

    PEFT puts a model below `base_model.model.`, and a layer that it adapts below `base_layer`. vLLM
    stops at such names; transformers finds none of its weights, and leaves random ones. Whether the
    adapter was merged into these weights the names don't tell; one that was not lies beside them as
    `lora_A` and `lora_B`, and has to be merged first.
    """
    names = names_of(subject)
    if names and names.wrapped:
        expected = "names without base_model.model. and base_layer"
        found = "names of PEFT's wrappers"
        count = len(names.wrapped)
        yield Finding(subject.names_file, names.wrapped[0], expected, found, (), count)


@rule(
    "N211",
    "mlx-layout",
    Severity.ERROR,
    "the checkpoint is in MLX's layout, which neither engines nor transformers read",
    repair="take the checkpoint that was converted to MLX. Of one that exists in MLX alone, undo "
    "what MLX's `sanitize` does: transformers' names, experts one by one or as `gate_up_proj` and "
    "`down_proj`, convolutions as [channels, 1, width], 1 taken from norms that multiply by 1 + w; "
    "packed weights have to be dequantized first. Then `scion lint --deep`, for the norms",
    seen=(
        "https://github.com/ggml-org/llama.cpp/issues/24502",
        "https://github.com/ggml-org/llama.cpp/issues/23758",
    ),
)
def mlx_layout(subject: Subject) -> Iterable[Finding]:
    """mlx-lm or mlx-vlm converted the model, or fused an adapter into one that they had converted.

    Their loaders rename and turn tensors (`language_model.model.…`, the experts of a layer as
    `switch_mlp`, convolutions with their last two axes exchanged), add 1 to the norms of families
    whose norms multiply by 1 + w, and drop the MTP head, and what they save stays so. Their 4-bit
    weights are U32 beside `scales` and `biases`. What else config.json implies is not judged.
    """
    if subject.mlx_marks:
        names = next(iter(subject.tensors))
        found = ", ".join(subject.mlx_marks)
        yield Finding(subject.names_file, None, "transformers' layout", f"{found}; {names}, …")


@rule(
    "F110",
    "adapter-beside-weights",
    Severity.ERROR,
    "an adapter lies beside the weights of a whole model",
    repair=f"move {ADAPTER_CONFIG} and {ADAPTER} to a folder of their own, after merging the "
    "adapter if the weights are still those of the base model",
    holds_for="transformers where PEFT is installed, and what loads through it: quantizers, "
    "trainers, evaluations",
    seen=("https://github.com/huggingface/peft/issues/1381",),
)
def adapter_beside_weights(subject: Subject) -> Iterable[Finding]:
    """With PEFT, transformers applies the adapter to whatever it loads; vLLM and SGLang do not.

    `from_pretrained` looks for adapter_config.json first. From a folder it loads the weights and
    applies the adapter on top: to merged weights for a second time, so that what is quantized or
    evaluated is another model than what is served. From the hub it takes the base model that
    the file names in place of these weights. Without the adapter's own tensors it stops. vLLM reads
    every *.safetensors file where there is no index, and stops at the adapter's tensors.
    """
    whole = any(header.tensors for name, header in subject.headers.items() if name != ADAPTER)
    if whole and ADAPTER_CONFIG in subject.source.files:
        beside = f"beside {ADAPTER}" if ADAPTER in subject.headers else f"without {ADAPTER}"
        yield Finding(ADAPTER_CONFIG, None, "a model or an adapter", f"both, {beside}")


@rule(
    "N214",
    "two-plain-dtypes",
    Severity.WARNING,
    "matrices of the language model are stored in two floating-point formats",
    repair="write all of them in the dtype that the model was trained in, from the checkpoints "
    "that this one was made of",
)
def two_plain_dtypes(subject: Subject) -> Iterable[Finding]:
    """Engines and transformers convert what they load to one dtype, and say nothing.

    bfloat16 that becomes float16 may overflow, float16 that becomes bfloat16 loses three bits, and
    float32 takes twice the room for numbers that are rounded after all. Mostly a merge or a script
    has left a part of the model behind. Judged are the matrices that lie plain, embeddings and both
    heads among them. What trainers keep in float32 is sound: routers, vectors such as norms,
    `A_log` or the correction of a router's scores, and a language model's head alone.
    """
    plain = _plain_matrices(subject)
    counts = Counter(tensor.dtype for tensor in plain)
    if len(counts) < 2:
        return
    usual, most = counts.most_common(1)[0]
    for tensor in plain:
        if tensor.dtype != usual:
            expected = f"{usual}, as {most} others are"
            yield Finding(subject.shard_of(tensor.name), tensor.name, expected, tensor.dtype)


def _plain_matrices(subject: Subject) -> list[Tensor]:
    """The language model's matrices in floating-point numbers, but for what may be in float32."""
    inventory = subject.inventory
    if inventory is None or subject.formats is None:
        return []
    names = {*inventory.language, *inventory.mtp, *inventory.stacked}
    return [
        tensor
        for name, tensor in subject.tensors.items()
        if name in names
        and tensor.dtype in FLOATS
        and (len(tensor.shape) == 2 or name in inventory.stacked)
        and not name.endswith(_ROUTERS)
        and not (tensor.dtype == "F32" and name.endswith(f"{HEAD}.weight"))
    ]


RULES = (packed_experts, peft_names, mlx_layout, adapter_beside_weights, two_plain_dtypes)
