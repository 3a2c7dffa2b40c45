"""Graft the donor's MTP head.

Input: the artifacts quantize_nvfp4 and fetch_donor.
Output: the artifact graft_mtp, all that the release holds but its card.
"""


rule graft_mtp:
    input:
        quantized=manifest("quantize_nvfp4"),
        donor=manifest("fetch_donor"),
        code=stage_code("graft_mtp"),
    output:
        update(manifest("graft_mtp")),
    log:
        f"logs/{RELEASE}/graft_mtp.log",
    benchmark:
        f"benchmarks/{RELEASE}/graft_mtp.tsv"
    params:
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.graft_mtp \
            --quantized {input.quantized:q} \
            --donor {input.donor:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
