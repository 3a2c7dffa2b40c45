"""The engines that Scion knows, in one table, and what each makes of a checkpoint.

`engines` has the table and reads what a user names (`vllm>=0.20,<0.29`); `decisions` answers for a
release. Nothing else in `scion.engines` knows more than one engine.
"""
