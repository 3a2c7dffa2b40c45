"""Artifacts: what stages make, the store that keeps it, and the manifests that prove its origin.

Begin with:

- `scion.artifacts.making.remake`: gives the artifact that is asked for, out of the store or by
  making it.
- `scion.artifacts.store`: where artifacts are kept, whole and unchanged, and how they are found.
- `scion.artifacts.plan`: which of them a run still has to make; `scion.artifacts.results`: where
  people see them.
- `scion.artifacts.artifact.Artifact`: one that was made: its files, tensors, facts, root digest.
- `scion.artifacts.code_digest`: the code of a stage, as far as its imports reach, and what it runs
  without importing it; `scion.artifacts.code_meaning`: what of a file counts.
- `scion.artifacts.manifest`: what a manifest has to be before anything in it is used.
- `scion.artifacts.release_check.check_release`: a release as its reader has it, in a folder or on
  the hub (`file_tree`, `hub_tree`). `file_check` holds files against a manifest, `release_chain`
  one manifest against the next; `release_layout` says which stage's file lies where.

May import: common, architectures, formats, checkpoint.

To extend: a new fact about how something was made goes into the manifest that
`scion.artifacts.artifact.Draft.finish` writes, and into docs/store.md.
"""
