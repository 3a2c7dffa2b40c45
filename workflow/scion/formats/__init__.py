"""NVFP4 and FP8, and how a release declares and spells them."""
