"""Verify the grafted checkpoint against what it was made from.

Input: the artifacts graft_mtp, heal_mtp or quantize_mtp, fix_keys and, where there is a donor,
fetch_donor; heal_mtp as well, where the head was quantized after it.
Output: the artifact verify_release, a report.
"""

VERIFY_RELEASE = plan(
    "verify_release",
    lambda config: dict(
        reads={
            "release": whole(config),
            "fixed": "fix_keys",
            "donor": donor(config),
            "healed": HEALED if quantizes_head(config) else None,
        },
        settings=settings(lint=config.lint),
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)


rule verify_release:
    input:
        unpack(VERIFY_RELEASE.input),
    output:
        VERIFY_RELEASE.pointer,
    log:
        VERIFY_RELEASE.log,
    benchmark:
        VERIFY_RELEASE.benchmark
    threads: VERIFY_RELEASE.threads
    resources:
        **VERIFY_RELEASE.resources,
    params:
        **VERIFY_RELEASE.params,
    shell:
        r"""
        python -m scion.stages.verify_release \
            --release {input.release:q} \
            --fixed {input.fixed:q} \
            --donor {input.donor:q} \
            --healed {input.healed:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
