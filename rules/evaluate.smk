"""Score the release and its source on held-out text.

Input: the artifacts graft_mtp, extract_text and verify_release.
Output: the artifact evaluate_perplexity.
"""


rule evaluate_perplexity:
    input:
        release=manifest("graft_mtp"),
        source=manifest("extract_text"),
        verified=manifest("verify_release"),
        dataset=CONFIG.perplexity.dataset,
        code=stage_code("evaluate_perplexity"),
    output:
        update(manifest("evaluate_perplexity")),
    log:
        f"logs/{RELEASE}/evaluate_perplexity.log",
    benchmark:
        f"benchmarks/{RELEASE}/evaluate_perplexity.tsv"
    threads: 64
    resources:
        serving=1,
    params:
        settings=settings(serving=CONFIG.serving, perplexity=CONFIG.perplexity),
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
        environment=SERVING_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.evaluate_perplexity \
            --release {input.release:q} \
            --source {input.source:q} \
            --dataset {input.dataset:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
