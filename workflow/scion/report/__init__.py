"""What people read of a run and of a release: lines, the summary, the card, a comparison of two.

Begin with:

- `scion.report.measurements`: one row a measurement: its record, its table in the card, its line in
  the summary, how two of them are compared.
- `scion.report.run`: what a run of the workflow says in the terminal.
- `scion.report.summary.summary`: its last lines, which `scion summary` prints.
- `scion.report.card`: the tables of the card, from the records alone.
- `scion.report.pictures`: the pictures, one palette for light and dark pages.
- `scion.report.attestation`: what a sealed release says in others' forms, and its signature.
- `scion.report.verdict`: what the verdict says; `read_verdict` is for whoever publishes.
- `scion.report.comparison`: which numbers moved, by how much against their intervals.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization,
evaluation, healing.

To extend: a row in `measurements`, and its section of the card in workflow/templates/sections.
"""
