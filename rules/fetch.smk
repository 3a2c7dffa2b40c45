"""Fetch the source checkpoint, the donor's MTP head, and the base model if it is compared with.

Input: a local folder, or a repository of the hub at a commit.
Output: the artifacts fetch_source and fetch_base (whole checkpoints) and fetch_donor (config and
mtp.* tensors).

A location is read by a function: as a plain parameter Snakemake's lint takes it for the hard-coded
prefix of an input.
"""


rule fetch_source:
    input:
        files=local_checkpoint(CONFIG.source),
        code=stage_code("fetch_source"),
    output:
        update(manifest("fetch_source")),
    log:
        f"logs/{RELEASE}/fetch_source.log",
    benchmark:
        f"benchmarks/{RELEASE}/fetch_source.tsv"
    threads: 8
    params:
        location=lambda wildcards: CONFIG.source,
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.fetch_source \
            --location {params.location:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


rule fetch_donor:
    input:
        files=local_checkpoint(CONFIG.donor),
        code=stage_code("fetch_donor"),
    output:
        update(manifest("fetch_donor")),
    log:
        f"logs/{RELEASE}/fetch_donor.log",
    benchmark:
        f"benchmarks/{RELEASE}/fetch_donor.tsv"
    params:
        location=lambda wildcards: CONFIG.donor,
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.fetch_donor \
            --location {params.location:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


if CONFIG.quality.base:

    rule fetch_base:
        input:
            files=local_checkpoint(CONFIG.quality.base),
            code=stage_code("fetch_base"),
        output:
            update(manifest("fetch_base")),
        log:
            f"logs/{RELEASE}/fetch_base.log",
        benchmark:
            f"benchmarks/{RELEASE}/fetch_base.tsv"
        threads: 8
        params:
            location=lambda wildcards: CONFIG.quality.base,
            environment=ROOT_ENVIRONMENT,
        shell:
            r"""
            python -m scion.stages.fetch_base \
                --location {params.location:q} \
                --output {output:q} \
                --environment {params.environment:q} \
                2>&1 | tee {log:q}
            """
