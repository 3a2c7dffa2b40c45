"""Score the release beside its source and its base model.

Input: the artifacts graft_mtp, extract_text, fetch_source, fetch_base and verify_release.
Output: the artifact evaluate_quality.
"""


rule evaluate_quality:
    input:
        release=manifest("graft_mtp"),
        fixed=manifest("extract_text"),
        source=manifest("fetch_source"),
        base=manifest("fetch_base") if CONFIG.quality.base else [],
        verified=manifest("verify_release"),
        chats=CONFIG.quality.chats,
        texts=CONFIG.quality.texts or [],
        code=stage_code("evaluate_quality"),
    output:
        update(manifest("evaluate_quality")),
    log:
        f"logs/{RELEASE}/evaluate_quality.log",
    benchmark:
        f"benchmarks/{RELEASE}/evaluate_quality.tsv"
    threads: SERVER_THREADS
    params:
        settings=settings(serving=CONFIG.serving, launch=LAUNCH, quality=CONFIG.quality),
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
        environment=SERVING_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.evaluate_quality \
            --release {input.release:q} \
            --fixed {input.fixed:q} \
            --source {input.source:q} \
            --base {input.base:q} \
            --chats {input.chats:q} \
            --texts {input.texts:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


EVALUATION_FOLDER = "envs/evaluate"
EVALUATION_PYTHON = str(prefix(EVALUATION_FOLDER) / "bin/python")
EVALUATION_ENVIRONMENT = environment(SERVING_FOLDER, EVALUATION_FOLDER)


rule evaluate_ifeval:
    input:
        release=manifest("graft_mtp"),
        verified=manifest("verify_release"),
        dataset=local_file(CONFIG.ifeval.dataset),
        code=stage_code("evaluate_ifeval"),
    output:
        update(manifest("evaluate_ifeval")),
    log:
        f"logs/{RELEASE}/evaluate_ifeval.log",
    benchmark:
        f"benchmarks/{RELEASE}/evaluate_ifeval.tsv"
    threads: SERVER_THREADS
    params:
        settings=settings(launch=LAUNCH, serving=CONFIG.serving, ifeval=CONFIG.ifeval),
        python=SERVING_PYTHON,
        evaluator_python=EVALUATION_PYTHON,
        log_folder=f"logs/{RELEASE}",
        environment=EVALUATION_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.evaluate_ifeval \
            --release {input.release:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --evaluator-python {params.evaluator_python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


rule evaluate_bfcl:
    input:
        release=manifest("graft_mtp"),
        verified=manifest("verify_release"),
        code=stage_code("evaluate_bfcl"),
    output:
        update(manifest("evaluate_bfcl")),
    log:
        f"logs/{RELEASE}/evaluate_bfcl.log",
    benchmark:
        f"benchmarks/{RELEASE}/evaluate_bfcl.tsv"
    threads: SERVER_THREADS
    params:
        settings=settings(launch=LAUNCH, serving=CONFIG.serving, bfcl=CONFIG.bfcl),
        python=SERVING_PYTHON,
        evaluator_python=EVALUATION_PYTHON,
        log_folder=f"logs/{RELEASE}",
        environment=EVALUATION_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.evaluate_bfcl \
            --release {input.release:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --evaluator-python {params.evaluator_python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
