from scion.architectures.families import QWEN3_5
from scion.config import Launch
from scion.engines.vllm.flags import command

PRODUCTION = Launch(
    name="production",
    title="Production",
    max_model_len=262144,
    max_num_seqs=2,
    kv_cache_dtype="fp8",
    gpu_memory_utilization=0.9,
    speculative_tokens=3,
)


def test_a_launch_is_a_command_with_one_option_a_line() -> None:
    assert command(PRODUCTION, QWEN3_5, "owner/name", text_only=True) == (
        "vllm serve owner/name \\\n"
        "    --quantization modelopt \\\n"
        "    --language-model-only \\\n"
        "    --enable-auto-tool-choice --tool-call-parser qwen3_xml \\\n"
        "    --reasoning-parser qwen3 \\\n"
        "    --max-model-len 262144 \\\n"
        "    --max-num-seqs 2 \\\n"
        "    --kv-cache-dtype fp8 \\\n"
        "    --gpu-memory-utilization 0.9 \\\n"
        """    --speculative-config '{"method":"mtp","num_speculative_tokens":3}'"""
    )


def test_what_a_launch_leaves_open_is_left_to_the_server() -> None:
    launch = Launch(name="plain", title="Plain", max_model_len=4096, speculative_tokens=0)
    text = command(launch, QWEN3_5, "owner/name", text_only=False)
    for flag in ("language-model-only", "num-seqs", "kv-cache", "gpu-memory", "speculative"):
        assert flag not in text
