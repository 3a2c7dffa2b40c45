"""The command `scion`: one module a subcommand.

Begin with `scion.cli.main`, which knows the subcommands and imports the one that is asked for.
`scion.lint.command` is `scion lint`, which lives with its rules.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization,
evaluation, healing, report, stages, audit, config.

To extend: a module with its options and a function that runs them, and its line in `main`.
"""
