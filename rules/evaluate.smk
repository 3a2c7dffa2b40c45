"""Score the release beside its source and its base model.

Input: the artifacts graft_mtp, extract_text, fetch_source, fetch_base and verify_release.
Output: the artifact evaluate_quality.
"""

EVALUATE_QUALITY = plan(
    "evaluate_quality",
    reads={
        "release": "graft_mtp",
        "fixed": "extract_text",
        "source": "fetch_source",
        "base": "fetch_base" if CONFIG.quality.base else None,
        "verified": "verify_release",
    },
    files={"chats": CONFIG.quality.chats, "texts": CONFIG.quality.texts or []},
    settings=settings(serving=CONFIG.serving, launch=LAUNCH, quality=CONFIG.quality),
    environment=SERVING_ENVIRONMENT,
)


rule evaluate_quality:
    input:
        **EVALUATE_QUALITY.input,
    output:
        EVALUATE_QUALITY.pointer,
    log:
        EVALUATE_QUALITY.log,
    benchmark:
        EVALUATE_QUALITY.benchmark
    threads: SERVER_THREADS
    params:
        **EVALUATE_QUALITY.params,
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
    shell:
        r"""
        python -m scion.stages.evaluate_quality \
            --release {input.release:q} \
            --fixed {input.fixed:q} \
            --source {input.source:q} \
            --base {input.base:q} \
            --chats {params.chats:q} \
            --texts {params.texts:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


EVALUATION_FOLDER = "envs/evaluate"
EVALUATION_PYTHON = str(prefix(EVALUATION_FOLDER) / "bin/python")
EVALUATION_ENVIRONMENT = environment(SERVING_FOLDER, EVALUATION_FOLDER)


EVALUATE_IFEVAL = plan(
    "evaluate_ifeval",
    reads={"release": "graft_mtp", "verified": "verify_release"},
    files={"dataset": local_file(CONFIG.ifeval.dataset)},
    settings=settings(launch=LAUNCH, serving=CONFIG.serving, ifeval=CONFIG.ifeval),
    environment=EVALUATION_ENVIRONMENT,
)


rule evaluate_ifeval:
    input:
        **EVALUATE_IFEVAL.input,
    output:
        EVALUATE_IFEVAL.pointer,
    log:
        EVALUATE_IFEVAL.log,
    benchmark:
        EVALUATE_IFEVAL.benchmark
    threads: SERVER_THREADS
    params:
        **EVALUATE_IFEVAL.params,
        python=SERVING_PYTHON,
        evaluator_python=EVALUATION_PYTHON,
        log_folder=f"logs/{RELEASE}",
    shell:
        r"""
        python -m scion.stages.evaluate_ifeval \
            --release {input.release:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --evaluator-python {params.evaluator_python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


EVALUATE_BFCL = plan(
    "evaluate_bfcl",
    reads={"release": "graft_mtp", "verified": "verify_release"},
    settings=settings(launch=LAUNCH, serving=CONFIG.serving, bfcl=CONFIG.bfcl),
    environment=EVALUATION_ENVIRONMENT,
)


rule evaluate_bfcl:
    input:
        **EVALUATE_BFCL.input,
    output:
        EVALUATE_BFCL.pointer,
    log:
        EVALUATE_BFCL.log,
    benchmark:
        EVALUATE_BFCL.benchmark
    threads: SERVER_THREADS
    params:
        **EVALUATE_BFCL.params,
        python=SERVING_PYTHON,
        evaluator_python=EVALUATION_PYTHON,
        log_folder=f"logs/{RELEASE}",
    shell:
        r"""
        python -m scion.stages.evaluate_bfcl \
            --release {input.release:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --evaluator-python {params.evaluator_python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
