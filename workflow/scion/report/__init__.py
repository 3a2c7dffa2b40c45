"""What people read of a release: the summary, the card, its pictures, a comparison of two.

Begin with:

- `scion.report.measurements`: one row a measurement: its record, its table in the card, its line in
  the summary, how two of them are compared.
- `scion.report.summary.summary`: the last lines of `make run`.
- `scion.report.card`: the tables of the card, from the records alone.
- `scion.report.pictures`: the pictures, one palette for light and dark pages.
- `scion.report.comparison`: which numbers moved, by how much against their intervals.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization,
evaluation.

To extend: a row in `measurements`, and its section of the card in workflow/templates/sections.
"""
