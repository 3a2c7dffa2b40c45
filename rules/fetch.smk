"""Fetch the source checkpoint, the donor's MTP head, and the base model if it is compared with.

Input: a local folder, or a repository of the hub at a commit.
Output: the artifacts fetch_source and fetch_base (whole checkpoints) and fetch_donor (config, mtp.*
tensors and a sample of other weights).
"""

FETCH_SOURCE = plan(
    "fetch_source",
    local=local_checkpoint(CONFIG.source),
    location=CONFIG.source,
    environment=ROOT_ENVIRONMENT,
)
look_at_hub(FETCH_SOURCE)


rule fetch_source:
    input:
        **FETCH_SOURCE.input,
    output:
        FETCH_SOURCE.pointer,
    log:
        FETCH_SOURCE.log,
    benchmark:
        FETCH_SOURCE.benchmark
    threads: 8
    params:
        **FETCH_SOURCE.params,
    shell:
        r"""
        python -m scion.stages.fetch_source \
            --location {params.location:q} \
            --planned {params.planned:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


# What stages read the head of a donor from, where there is one.
DONOR = "fetch_donor" if CONFIG.donor else None

if CONFIG.donor:

    FETCH_DONOR = plan(
        "fetch_donor",
        local=local_checkpoint(CONFIG.donor, usable_files),
        location=CONFIG.donor,
        environment=ROOT_ENVIRONMENT,
    )

    rule fetch_donor:
        input:
            **FETCH_DONOR.input,
        output:
            FETCH_DONOR.pointer,
        log:
            FETCH_DONOR.log,
        benchmark:
            FETCH_DONOR.benchmark
        params:
            **FETCH_DONOR.params,
        shell:
            r"""
            python -m scion.stages.fetch_donor \
                --location {params.location:q} \
                --planned {params.planned:q} \
                --output {output:q} \
                --store {params.store:q} \
                --plan {params.plan:q} \
                --environment {params.environment:q} \
                --progress {params.progress:q} \
                2>&1 | tee -i {log:q}
            """


if CONFIG.quality.base:

    FETCH_BASE = plan(
        "fetch_base",
        local=local_checkpoint(CONFIG.quality.base),
        location=CONFIG.quality.base,
        environment=ROOT_ENVIRONMENT,
    )

    rule fetch_base:
        input:
            **FETCH_BASE.input,
        output:
            FETCH_BASE.pointer,
        log:
            FETCH_BASE.log,
        benchmark:
            FETCH_BASE.benchmark
        threads: 8
        params:
            **FETCH_BASE.params,
        shell:
            r"""
            python -m scion.stages.fetch_base \
                --location {params.location:q} \
                --planned {params.planned:q} \
                --output {output:q} \
                --store {params.store:q} \
                --plan {params.plan:q} \
                --environment {params.environment:q} \
                --progress {params.progress:q} \
                2>&1 | tee -i {log:q}
            """
