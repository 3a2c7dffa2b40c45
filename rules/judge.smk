"""Ask the bf16 source what the release is asked, and judge the release beside it.

Only where `verdict.enabled`.

Input: the artifacts fix_keys or extract_text for the source; graft_mtp, heal_mtp or quantize_mtp,
quantize_nvfp4, verify_release, and all that was measured.
Output: the artifacts run_agent_tasks_source, evaluate_ifeval_source, evaluate_bfcl_source,
judge_release and render_verdict.
"""

RUN_AGENT_TASKS_SOURCE = plan(
    "run_agent_tasks_source",
    lambda config: (
        dict(
            reads={"fixed": bf16(config)},
            files={"tasks": AGENT_TASKS},
            settings=settings(
                serving=config.serving,
                launch=source_launch(config),
                agent_tasks=config.agent_tasks,
            ),
            environment=serving_environment(config),
            threads=server_threads,
            beside=server_options(config),
        )
        if "run_agent_tasks_source" in asked_of_source(config)
        else None
    ),
)


rule run_agent_tasks_source:
    input:
        unpack(RUN_AGENT_TASKS_SOURCE.input),
    output:
        RUN_AGENT_TASKS_SOURCE.pointer,
    log:
        RUN_AGENT_TASKS_SOURCE.log,
    benchmark:
        RUN_AGENT_TASKS_SOURCE.benchmark
    threads: RUN_AGENT_TASKS_SOURCE.threads
    resources:
        **RUN_AGENT_TASKS_SOURCE.resources,
    params:
        **RUN_AGENT_TASKS_SOURCE.params,
    shell:
        r"""
        python -m scion.stages.run_agent_tasks_source \
            --fixed {input.fixed:q} \
            --tasks {params.tasks:q} \
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


EVALUATE_IFEVAL_SOURCE = plan(
    "evaluate_ifeval_source",
    lambda config: (
        dict(
            reads={"fixed": bf16(config)},
            files={"dataset": local_file(config.ifeval.dataset)},
            locked=[config.ifeval.dataset],
            settings=settings(
                launch=source_launch(config), serving=config.serving, ifeval=config.ifeval
            ),
            environment=serving_environment(config, EVALUATION_FOLDER),
            threads=server_threads,
            beside={**server_options(config), "evaluator_python": EVALUATION_PYTHON},
        )
        if "evaluate_ifeval_source" in asked_of_source(config)
        else None
    ),
)


rule evaluate_ifeval_source:
    input:
        unpack(EVALUATE_IFEVAL_SOURCE.input),
    output:
        EVALUATE_IFEVAL_SOURCE.pointer,
    log:
        EVALUATE_IFEVAL_SOURCE.log,
    benchmark:
        EVALUATE_IFEVAL_SOURCE.benchmark
    threads: EVALUATE_IFEVAL_SOURCE.threads
    resources:
        **EVALUATE_IFEVAL_SOURCE.resources,
    params:
        **EVALUATE_IFEVAL_SOURCE.params,
    shell:
        r"""
        python -m scion.stages.evaluate_ifeval_source \
            --fixed {input.fixed:q} \
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


EVALUATE_BFCL_SOURCE = plan(
    "evaluate_bfcl_source",
    lambda config: (
        dict(
            reads={"fixed": bf16(config)},
            settings=settings(
                launch=source_launch(config), serving=config.serving, bfcl=config.bfcl
            ),
            environment=serving_environment(config, EVALUATION_FOLDER),
            threads=server_threads,
            beside={**server_options(config), "evaluator_python": EVALUATION_PYTHON},
        )
        if "evaluate_bfcl_source" in asked_of_source(config)
        else None
    ),
)


rule evaluate_bfcl_source:
    input:
        unpack(EVALUATE_BFCL_SOURCE.input),
    output:
        EVALUATE_BFCL_SOURCE.pointer,
    log:
        EVALUATE_BFCL_SOURCE.log,
    benchmark:
        EVALUATE_BFCL_SOURCE.benchmark
    threads: EVALUATE_BFCL_SOURCE.threads
    resources:
        **EVALUATE_BFCL_SOURCE.resources,
    params:
        **EVALUATE_BFCL_SOURCE.params,
    shell:
        r"""
        python -m scion.stages.evaluate_bfcl_source \
            --fixed {input.fixed:q} \
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


JUDGE_RELEASE = plan(
    "judge_release",
    lambda config: (
        dict(
            reads={
                "release": whole(config),
                "fixed": bf16(config),
                "quantize_nvfp4": "quantize_nvfp4",
                "verify_release": "verify_release",
                "evaluate_quality": "evaluate_quality",
                "measure_serving": "measure_serving",
                "run_agent_tasks": "run_agent_tasks",
                "run_agent_tasks_source": "run_agent_tasks_source",
                "evaluate_ifeval": "evaluate_ifeval" if config.ifeval.enabled else None,
                "evaluate_ifeval_source": (
                    "evaluate_ifeval_source" if config.ifeval.enabled else None
                ),
                "evaluate_bfcl": "evaluate_bfcl" if config.bfcl.enabled else None,
                "evaluate_bfcl_source": "evaluate_bfcl_source" if config.bfcl.enabled else None,
            },
            settings=settings(
                verdict=config.verdict,
                launch=launch(config),
                mtp=config.mtp,
                ifeval=config.ifeval,
                bfcl=config.bfcl,
            ),
            environment=ROOT_ENVIRONMENT,
        )
        if config.verdict.enabled
        else None
    ),
)


rule judge_release:
    input:
        unpack(JUDGE_RELEASE.input),
    output:
        JUDGE_RELEASE.pointer,
    log:
        JUDGE_RELEASE.log,
    benchmark:
        JUDGE_RELEASE.benchmark
    resources:
        **JUDGE_RELEASE.resources,
    params:
        **JUDGE_RELEASE.params,
    shell:
        r"""
        python -m scion.stages.judge_release \
            --release {input.release:q} \
            --fixed {input.fixed:q} \
            --quantize-nvfp4 {input.quantize_nvfp4:q} \
            --verify-release {input.verify_release:q} \
            --evaluate-quality {input.evaluate_quality:q} \
            --measure-serving {input.measure_serving:q} \
            --run-agent-tasks {input.run_agent_tasks:q} \
            --run-agent-tasks-source {input.run_agent_tasks_source:q} \
            --evaluate-ifeval {input.evaluate_ifeval:q} \
            --evaluate-ifeval-source {input.evaluate_ifeval_source:q} \
            --evaluate-bfcl {input.evaluate_bfcl:q} \
            --evaluate-bfcl-source {input.evaluate_bfcl_source:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


RENDER_VERDICT = plan(
    "render_verdict",
    lambda config: (
        dict(
            reads={"judged": "judge_release"},
            files={"template": project_file("workflow/templates/verdict.md.jinja")},
            environment=ROOT_ENVIRONMENT,
        )
        if config.verdict.enabled
        else None
    ),
)


rule render_verdict:
    input:
        unpack(RENDER_VERDICT.input),
    output:
        pointer=RENDER_VERDICT.pointer,
        page=report(
            f"{RENDER_VERDICT.copies}/verdict.md",
            caption="../workflow/report/verdict.rst",
            category="Verdict",
            labels={"result": "page"},
        ),
    log:
        RENDER_VERDICT.log,
    benchmark:
        RENDER_VERDICT.benchmark
    resources:
        **RENDER_VERDICT.resources,
    params:
        **RENDER_VERDICT.params,
        copies=subpath(output.page, parent=True),
    shell:
        r"""
        python -m scion.stages.render_verdict \
            --judged {input.judged:q} \
            --template {params.template:q} \
            --output {output.pointer:q} \
            --copies {params.copies:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
