"""Verify the grafted checkpoint against what it was made from.

Input: the artifacts graft_mtp, extract_text and fetch_donor.
Output: the artifact verify_release, a report.
"""


rule verify_release:
    input:
        release=manifest("graft_mtp"),
        text=manifest("extract_text"),
        donor=manifest("fetch_donor"),
        code=stage_code("verify_release"),
    output:
        update(manifest("verify_release")),
    log:
        f"logs/{RELEASE}/verify_release.log",
    benchmark:
        f"benchmarks/{RELEASE}/verify_release.tsv"
    threads: 8
    params:
        settings=settings(lint=CONFIG.lint),
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.verify_release \
            --release {input.release:q} \
            --text {input.text:q} \
            --donor {input.donor:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
