from scion.architectures.families import QWEN3_5
from scion.engines.config import Launch
from scion.engines.sglang.flags import command

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
    assert command(PRODUCTION, QWEN3_5, "owner/name", quantized=True, text_only=True) == (
        "python -m sglang.launch_server --model-path owner/name \\\n"
        "    --quantization modelopt_fp4 \\\n"
        "    --language-model-only \\\n"
        "    --tool-call-parser qwen3_coder \\\n"
        "    --reasoning-parser qwen3 \\\n"
        "    --context-length 262144 \\\n"
        "    --max-running-requests 2 \\\n"
        "    --kv-cache-dtype fp8_e4m3 \\\n"
        "    --mem-fraction-static 0.9 \\\n"
        "    --speculative-algorithm NEXTN --speculative-num-steps 3 --speculative-eagle-topk 1 "
        "--speculative-num-draft-tokens 4"
    )


def test_what_a_launch_leaves_open_is_left_to_the_server() -> None:
    launch = Launch(name="plain", title="Plain", max_model_len=4096, speculative_tokens=0)
    text = command(launch, QWEN3_5, "owner/name", quantized=False, text_only=False)
    for flag in ("quantization", "language", "running", "kv-cache", "mem-fraction", "speculative"):
        assert flag not in text
