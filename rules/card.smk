"""Write the model card and seal the release.

Input: the artifacts of all stages, the card's template.
Output: the artifacts render_card and release, the folder that is published.
"""

EVIDENCE = (
    "fetch_source",
    "fetch_donor",
    "lint_source",
    "fix_keys",
    "extract_text",
    "quantize_nvfp4",
    "verify_release",
    "measure_serving",
    "run_agent_tasks",
    "evaluate_perplexity",
)


rule render_card:
    input:
        release=manifest("graft_mtp"),
        evidence=[manifest(stage) for stage in EVIDENCE],
        template="workflow/templates/card.md.jinja",
        tasks="workflow/scion/agent_tasks.yaml",
        code=stage_code("render_card"),
    output:
        update(manifest("render_card")),
    log:
        f"logs/{RELEASE}/render_card.log",
    benchmark:
        f"benchmarks/{RELEASE}/render_card.tsv"
    params:
        settings=settings(card=CONFIG.card),
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.render_card \
            --release {input.release:q} \
            --evidence {input.evidence:q} \
            --template {input.template:q} \
            --tasks {input.tasks:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


rule seal_release:
    input:
        release=manifest("graft_mtp"),
        card=manifest("render_card"),
        evidence=[manifest(stage) for stage in EVIDENCE],
        code=stage_code("seal_release"),
    output:
        update(manifest("release")),
    log:
        f"logs/{RELEASE}/seal_release.log",
    benchmark:
        f"benchmarks/{RELEASE}/seal_release.tsv"
    threads: 8
    params:
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.seal_release \
            --release {input.release:q} \
            --card {input.card:q} \
            --evidence {input.evidence:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
