"""TensorRT-LLM: how it reads a declaration."""
