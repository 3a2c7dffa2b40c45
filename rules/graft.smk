"""Graft the donor's MTP head; put back what the release keeps of the source.

Input: the artifacts quantize_nvfp4 or respell, fix_keys and fetch_donor.
Output: the artifact graft_mtp, all that the release holds but its card.
"""

GRAFT_MTP = plan(
    "graft_mtp",
    lambda config: dict(
        reads={"quantized": quantized(config), "fixed": "fix_keys", "donor": donor(config)},
        text_only=str(config.text_only).lower(),
        own_head=config.mtp.own_head,
        trusted_donor=config.mtp.trusted_donor or [],
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)


rule graft_mtp:
    input:
        unpack(GRAFT_MTP.input),
    output:
        GRAFT_MTP.pointer,
    log:
        GRAFT_MTP.log,
    benchmark:
        GRAFT_MTP.benchmark
    threads: GRAFT_MTP.threads
    resources:
        **GRAFT_MTP.resources,
    params:
        **GRAFT_MTP.params,
    shell:
        r"""
        python -m scion.stages.graft_mtp \
            --quantized {input.quantized:q} \
            --fixed {input.fixed:q} \
            --donor {input.donor:q} \
            --text-only {params.text_only:q} \
            --own-head {params.own_head:q} \
            --trusted-donor {params.trusted_donor:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
