"""Makes vLLM serve NVFP4 checkpoints on a CPU, with vLLM's own software emulation.

vLLM knows no NVFP4 kernel for its CPU platform and stops with "Failed to find a kernel that can
implement the NVFP4 linear layer", although it ships `EmulationNvFp4LinearKernel`, which needs no
GPU. This plugin registers that kernel for the CPU. It adds no arithmetic of its own there: the
subclass in `scion_vllm_plugin.kernel` only keeps the dequantized weights from one step to the next.

The emulation is W4A4: before each matrix product the activations are rounded to NVFP4, too, with
the checkpoint's `input_scale`, then both sides are multiplied in bf16. So what is generated and
measured on a CPU shows the errors that a Blackwell GPU's FP4 units make, where GPUs without such
units (Hopper and older) keep activations in bf16. Its speed says nothing about any GPU.

Releases of weights alone (W4A16) are multiplied in bf16 without that rounding. For those vLLM asks
no registry: it takes Marlin's kernel by its name where it knows of none that is better, and so that
name stands for a kernel in software here.

FP8 beside NVFP4 vLLM multiplies on a CPU as well: with one kernel for CPUs with AMX, which leaves
activations in bf16, and one in torch, which rounds them to FP8 as GPUs do and is far too slow where
the CPU has no FP8 units. One that does the latter in float32 comes before both.

For mixtures of experts vLLM has an emulation in Triton alone; `scion_vllm_plugin.experts` is the
same in torch.

It also makes the gated delta net compute alike with and without speculation
(`scion_vllm_plugin.delta_net`): speculative decoding promises the same greedy text, and that
promise is measured.

vLLM calls `register_nvfp4_on_cpu` through the entry point `vllm.general_plugins`, once in each of
its processes, and `cpu_platform` through `vllm.platform_plugins`; the latter offers the platform of
`scion_vllm_plugin.platform`, which starts faster. Off the CPU both do nothing.

- Plugins: https://docs.vllm.ai/en/latest/design/plugin_system/
- Kernel: https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/kernels/linear/nvfp4/emulation.py
"""


def register_nvfp4_on_cpu() -> None:
    """Offer the emulation kernels to the CPU platform."""
    # Here, not above: vLLM imports this module while it still decides on a platform.
    from vllm.platforms import PlatformEnum, current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.kernels import linear

    from scion_vllm_plugin.delta_net import use_one_arithmetic
    from scion_vllm_plugin.experts import offer_experts
    from scion_vllm_plugin.kernel import (
        Float32Fp8LinearKernel,
        KeptWeightsNvFp4LinearKernel,
        WeightOnlyNvFp4LinearKernel,
    )

    linear.register_linear_kernel(KeptWeightsNvFp4LinearKernel, PlatformEnum.CPU, "nvfp4")
    # What is registered comes after vLLM's own, of which the first that can is taken.
    linear._POSSIBLE_FP8_KERNELS[PlatformEnum.CPU].insert(0, Float32Fp8LinearKernel)
    linear.MarlinNvFp4LinearKernel = WeightOnlyNvFp4LinearKernel
    offer_experts()
    use_one_arithmetic()


def cpu_platform() -> str | None:
    """The class to use as vLLM's platform; None where vLLM would not run on its CPU platform."""
    from vllm.platforms import cpu_platform_plugin

    if cpu_platform_plugin() != "vllm.platforms.cpu.CpuPlatform":
        return None
    return "scion_vllm_plugin.platform.ForkingCpuPlatform"
