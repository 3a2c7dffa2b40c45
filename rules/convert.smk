"""Repair the keys and strip the vision tower.

Input: the artifact fetch_source.
Output: the artifacts fix_keys and extract_text, bf16 checkpoints.
"""


rule fix_keys:
    input:
        source=manifest("fetch_source"),
        code=stage_code("fix_keys"),
    output:
        update(manifest("fix_keys")),
    log:
        f"logs/{RELEASE}/fix_keys.log",
    benchmark:
        f"benchmarks/{RELEASE}/fix_keys.tsv"
    threads: 8
    params:
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.fix_keys \
            --source {input.source:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


rule extract_text:
    input:
        fixed=manifest("fix_keys"),
        code=stage_code("extract_text"),
    output:
        update(manifest("extract_text")),
    log:
        f"logs/{RELEASE}/extract_text.log",
    benchmark:
        f"benchmarks/{RELEASE}/extract_text.tsv"
    threads: 8
    params:
        text_only=str(CONFIG.text_only).lower(),
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.extract_text \
            --fixed {input.fixed:q} \
            --text-only {params.text_only:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
