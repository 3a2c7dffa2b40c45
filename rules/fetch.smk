"""Fetch the source checkpoint, the donor's MTP head, and the base model if it is compared with.

Input: a local folder, or a repository of the hub at a commit.
Output: the artifacts fetch_source and fetch_base (whole checkpoints) and fetch_donor (config, mtp.*
tensors and a sample of other weights).
"""

FETCH_SOURCE = plan(
    "fetch_source",
    lambda config: dict(
        local=local_checkpoint(config.source),
        location=config.source,
        locked=[config.source],
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)
look_at_hub("fetch_source")


rule fetch_source:
    input:
        unpack(FETCH_SOURCE.input),
    output:
        FETCH_SOURCE.pointer,
    log:
        FETCH_SOURCE.log,
    benchmark:
        FETCH_SOURCE.benchmark
    priority: BEFORE_QUANTIZING
    threads: FETCH_SOURCE.threads
    resources:
        **FETCH_SOURCE.resources,
    params:
        **FETCH_SOURCE.params,
    shell:
        r"""
        python -m scion.stages.fetch_source \
            --location {params.location:q} \
            --lock {params.lock:q} \
            --planned {params.planned:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


FETCH_DONOR = plan(
    "fetch_donor",
    lambda config: config.donor
    and dict(
        local=local_checkpoint(config.donor, usable_files),
        location=config.donor,
        locked=[config.donor],
        environment=ROOT_ENVIRONMENT,
    ),
)


rule fetch_donor:
    input:
        unpack(FETCH_DONOR.input),
    output:
        FETCH_DONOR.pointer,
    log:
        FETCH_DONOR.log,
    benchmark:
        FETCH_DONOR.benchmark
    resources:
        **FETCH_DONOR.resources,
    params:
        **FETCH_DONOR.params,
    shell:
        r"""
        python -m scion.stages.fetch_donor \
            --location {params.location:q} \
            --lock {params.lock:q} \
            --planned {params.planned:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


FETCH_BASE = plan(
    "fetch_base",
    lambda config: config.quality.base
    and dict(
        local=local_checkpoint(config.quality.base),
        location=config.quality.base,
        locked=[config.quality.base],
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)


rule fetch_base:
    input:
        unpack(FETCH_BASE.input),
    output:
        FETCH_BASE.pointer,
    log:
        FETCH_BASE.log,
    benchmark:
        FETCH_BASE.benchmark
    threads: FETCH_BASE.threads
    resources:
        **FETCH_BASE.resources,
    params:
        **FETCH_BASE.params,
    shell:
        r"""
        python -m scion.stages.fetch_base \
            --location {params.location:q} \
            --lock {params.lock:q} \
            --planned {params.planned:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
