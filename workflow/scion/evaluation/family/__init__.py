"""The releases of a family beside each other, measured in one run, for the stage compare_family.

Begin with `rounds.timed_rounds`: which release is served when, and what its decodes showed. Then
`record.family_record`: what the stage writes, with the ratios to the family's baseline.

It imports the timing of one server from `scion.evaluation.serving`.
"""
