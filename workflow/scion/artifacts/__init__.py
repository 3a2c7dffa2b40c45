"""Artifacts: the folders that stages write, and the manifests that prove where they came from.

Begin with:

- `scion.artifacts.artifact.remake`: makes an artifact whole, or returns the one that is there.
- `scion.artifacts.artifact.Artifact`: one that was made: its files, tensors, facts, root digest.
- `scion.artifacts.code_digest`: the code of a stage, as far as its imports reach, and what it runs
  without importing it; `scion.artifacts.code_meaning`: what of a file counts.
- `scion.artifacts.release_check.check_release`: the chain of digests, followed by a reader.

May import: common, architectures, formats, checkpoint.

To extend: a new fact about how something was made goes into the manifest that `remake` writes.
"""
