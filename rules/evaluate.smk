"""Score the release, some of it beside its source and its base model.

Input: the artifacts graft_mtp, heal_mtp or quantize_mtp, fix_keys or extract_text, fetch_source,
fetch_base and verify_release.
Output: the artifacts evaluate_quality, evaluate_ifeval, evaluate_bfcl and evaluate_images.
"""

EVALUATE_QUALITY = plan(
    "evaluate_quality",
    lambda config: dict(
        reads={
            "release": whole(config),
            "fixed": bf16(config),
            "source": "fetch_source",
            "base": "fetch_base" if config.quality.base else None,
            "verified": "verify_release",
        },
        files={"chats": config.quality.chats, "texts": config.quality.texts or []},
        settings=settings(serving=config.serving, launch=launch(config), quality=config.quality),
        environment=serving_environment(config),
        threads=server_threads,
        beside=server_options(config),
    ),
)


rule evaluate_quality:
    input:
        unpack(EVALUATE_QUALITY.input),
    output:
        EVALUATE_QUALITY.pointer,
    log:
        EVALUATE_QUALITY.log,
    benchmark:
        EVALUATE_QUALITY.benchmark
    threads: EVALUATE_QUALITY.threads
    resources:
        **EVALUATE_QUALITY.resources,
    params:
        **EVALUATE_QUALITY.params,
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


EVALUATION_PYTHON = str(prefix(EVALUATION_FOLDER) / "bin/python")


EVALUATE_IFEVAL = plan(
    "evaluate_ifeval",
    lambda config: dict(
        reads={"release": whole(config), "verified": "verify_release"},
        files={"dataset": local_file(config.ifeval.dataset)},
        locked=[config.ifeval.dataset],
        settings=settings(launch=launch(config), serving=config.serving, ifeval=config.ifeval),
        environment=serving_environment(config, EVALUATION_FOLDER),
        threads=server_threads,
        beside={**server_options(config), "evaluator_python": EVALUATION_PYTHON},
    ),
)


rule evaluate_ifeval:
    input:
        unpack(EVALUATE_IFEVAL.input),
    output:
        EVALUATE_IFEVAL.pointer,
    log:
        EVALUATE_IFEVAL.log,
    benchmark:
        EVALUATE_IFEVAL.benchmark
    threads: EVALUATE_IFEVAL.threads
    resources:
        **EVALUATE_IFEVAL.resources,
    params:
        **EVALUATE_IFEVAL.params,
    shell:
        r"""
        python -m scion.stages.evaluate_ifeval \
            --release {input.release:q} \
            --settings {params.settings:q} \
            --lock {params.lock:q} \
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
    lambda config: dict(
        reads={"release": whole(config), "verified": "verify_release"},
        settings=settings(launch=launch(config), serving=config.serving, bfcl=config.bfcl),
        environment=serving_environment(config, EVALUATION_FOLDER),
        threads=server_threads,
        beside={**server_options(config), "evaluator_python": EVALUATION_PYTHON},
    ),
)


rule evaluate_bfcl:
    input:
        unpack(EVALUATE_BFCL.input),
    output:
        EVALUATE_BFCL.pointer,
    log:
        EVALUATE_BFCL.log,
    benchmark:
        EVALUATE_BFCL.benchmark
    threads: EVALUATE_BFCL.threads
    resources:
        **EVALUATE_BFCL.resources,
    params:
        **EVALUATE_BFCL.params,
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


EVALUATE_IMAGES = plan(
    "evaluate_images",
    lambda config: (
        dict(
            reads={
                "release": whole(config),
                "fixed": bf16(config),
                "verified": "verify_release",
            },
            files={"questions": config.images.questions},
            settings=settings(serving=config.serving, launch=launch(config), images=config.images),
            environment=serving_environment(config),
            threads=server_threads,
            beside=server_options(config),
        )
        if config.images.enabled
        else None
    ),
)


rule evaluate_images:
    input:
        unpack(EVALUATE_IMAGES.input),
    output:
        EVALUATE_IMAGES.pointer,
    log:
        EVALUATE_IMAGES.log,
    benchmark:
        EVALUATE_IMAGES.benchmark
    threads: EVALUATE_IMAGES.threads
    resources:
        **EVALUATE_IMAGES.resources,
    params:
        **EVALUATE_IMAGES.params,
    shell:
        r"""
        python -m scion.stages.evaluate_images \
            --release {input.release:q} \
            --fixed {input.fixed:q} \
            --questions {params.questions:q} \
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
