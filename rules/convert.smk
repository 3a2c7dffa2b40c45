"""Lint the source, repair its keys and extract the language model.

Input: the artifact fetch_source.
Output: the artifact lint_source, a report; fix_keys and extract_text, bf16 checkpoints.
"""

LINT_SOURCE = plan(
    "lint_source",
    lambda config: dict(
        reads={"source": "fetch_source"},
        settings=settings(lint=config.lint),
        environment=ROOT_ENVIRONMENT,
    ),
)


rule lint_source:
    input:
        unpack(LINT_SOURCE.input),
    output:
        LINT_SOURCE.pointer,
    log:
        LINT_SOURCE.log,
    benchmark:
        LINT_SOURCE.benchmark
    priority: BEFORE_QUANTIZING
    resources:
        **LINT_SOURCE.resources,
    params:
        **LINT_SOURCE.params,
    shell:
        r"""
        python -m scion.stages.lint_source \
            --source {input.source:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


FIX_KEYS = plan(
    "fix_keys",
    lambda config: dict(
        # Nothing is read from lint_source: errors in the source stop the run before this.
        reads={"source": "fetch_source", "lint": "lint_source"},
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)


rule fix_keys:
    input:
        unpack(FIX_KEYS.input),
    output:
        FIX_KEYS.pointer,
    log:
        FIX_KEYS.log,
    benchmark:
        FIX_KEYS.benchmark
    priority: BEFORE_QUANTIZING
    threads: FIX_KEYS.threads
    resources:
        **FIX_KEYS.resources,
    params:
        **FIX_KEYS.params,
    shell:
        r"""
        python -m scion.stages.fix_keys \
            --source {input.source:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


EXTRACT_TEXT = plan(
    "extract_text",
    lambda config: dict(
        reads={"fixed": "fix_keys"},
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)


rule extract_text:
    input:
        unpack(EXTRACT_TEXT.input),
    output:
        EXTRACT_TEXT.pointer,
    log:
        EXTRACT_TEXT.log,
    benchmark:
        EXTRACT_TEXT.benchmark
    priority: BEFORE_QUANTIZING
    threads: EXTRACT_TEXT.threads
    resources:
        **EXTRACT_TEXT.resources,
    params:
        **EXTRACT_TEXT.params,
    shell:
        r"""
        python -m scion.stages.extract_text \
            --fixed {input.fixed:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
