"""Inference engines: what they make of a checkpoint, their flags, their servers, their memory.

Begin with:

- `scion.engines.registry.decisions.decisions`: for each module of a checkpoint, the algorithm that
  a release of an engine builds it with, and why.
- `scion.engines.vllm`, `scion.engines.sglang`, `scion.engines.tensorrt_llm`: one folder an engine,
  with one object in its `engine` module. Where a release such as vLLM 0.24 differs from the one
  before, its folder says so: in `scheme` what the declaration says, in `class_builds` what the
  model class fuses, in `exclusion` what the list covers, in `engine` what is never quantized.
- `scion.engines.loading`: what all engines share; it names none.
- `scion.engines.vllm.server.serve`: vLLM started, waited for, and stopped whatever happens.
- `scion.engines.vllm.flags`: a launch as flags, each with its reason.
- `scion.engines.vllm.memory`: whether a launch fits a GPU, told before anything is started.

May import: common, architectures, formats, checkpoint, artifacts.

To extend: an engine is one folder and its line in `scion.engines.registry.engines`; a release that
behaves like the one before is one word in `RELEASES` of its `engine` module.
"""
