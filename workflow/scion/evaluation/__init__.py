"""What a release can do and how fast: numbers, each with its count and its 95 % interval.

Begin with:

- `scion.evaluation.intervals`: the intervals, each by the method that fits what was counted.
- `scion.evaluation.serving`: speed and acceptance on a real server. The interval of acceptance is
  `scion.evaluation.intervals.ratio_of_sums` over prompts, called by
  `scion.evaluation.serving.acceptance.acceptance_rows`.
- `scion.evaluation.agent`: the agent cases and their judge.
- `scion.evaluation.quality`: loss, divergence and agreement beside the source.
- `scion.evaluation.harness`: IFEval and BFCL, driven in an environment of their own.
- `scion.evaluation.verdict`: whether a release may stand for its source, by stated thresholds.
- `scion.evaluation.offline`: acceptance without a server, in torch.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization.

To extend: a measurement is a stage that serves, and a row in `scion.report.measurements`.
"""
