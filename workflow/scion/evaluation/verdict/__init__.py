"""Whether a release may stand for its bf16 source, by thresholds that were stated before the run.

Begin with `config.Thresholds`, the bounds; then `criteria.judged`, which holds what was measured
against them, criterion by criterion; `decision.decide` says what follows from one estimate.
`answers` reads what release and source answered to the same prompts, `texts` finds those that are
broken, `paired` compares the two, prompt by prompt.

It imports intervals and the records' names of the other parts of `scion.evaluation`.

To extend: a threshold is a field of `config.Thresholds` and a function of `criteria` in its list.
"""
