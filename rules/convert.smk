"""Lint the source, repair its keys and strip the vision tower.

Input: the artifact fetch_source.
Output: the artifact lint_source, a report; fix_keys and extract_text, bf16 checkpoints.
"""


rule lint_source:
    input:
        source=manifest("fetch_source"),
        code=stage_code("lint_source"),
    output:
        update(manifest("lint_source")),
    log:
        f"logs/{RELEASE}/lint_source.log",
    benchmark:
        f"benchmarks/{RELEASE}/lint_source.tsv"
    params:
        settings=settings(lint=CONFIG.lint),
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.lint_source \
            --source {input.source:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


rule fix_keys:
    input:
        source=manifest("fetch_source"),
        # Nothing is read from it: errors in the source stop the run before this.
        lint=manifest("lint_source"),
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
