"""The stages: one module a rule, each one plain function and a `main` of argument parsing.

A stage turns artifacts into an artifact. Rule, module, log and benchmark have the stage's name:

    fetch_source, lint_source, fix_keys, extract_text, quantize_nvfp4      the source, to NVFP4
    respell                                                                in another spelling
    fetch_donor, graft_mtp, verify_release                                 the whole, and its proof
    sample_replies, heal_mtp, quantize_mtp                                 a head that fits it
    measure_serving, run_agent_tasks, evaluate_quality, evaluate_ifeval,
    evaluate_bfcl, fetch_base                                              what it can do
    run_agent_tasks_source, evaluate_ifeval_source, evaluate_bfcl_source,
    judge_release, render_verdict                                          beside its source
    render_card, seal_release, sign_release                                what is published
    compare_recipes                                                        beside `all`

Begin with `scion.stages.respell`, a short one, and with the rule of its name in rules/quantize.smk.
`scion.stages.common_options` has what every `main` shares, `scion.stages.served` what those share
that start a server.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization,
evaluation, healing, report.

To extend: a module, a rule, a test. No Snakemake, no work at import time, no environment variables:
but for the key of `sign_release`, which must not stand on a command line.
"""
