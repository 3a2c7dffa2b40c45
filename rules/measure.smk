"""Measure the release on a real server.

Input: the artifacts graft_mtp and verify_release (nothing is measured that was not verified).
Output: the artifacts measure_serving and run_agent_tasks.
"""


rule measure_serving:
    input:
        release=manifest("graft_mtp"),
        verified=manifest("verify_release"),
        prompts=CONFIG.measurement.prompts,
        code=stage_code("measure_serving"),
    output:
        update(manifest("measure_serving")),
    log:
        f"logs/{RELEASE}/measure_serving.log",
    benchmark:
        f"benchmarks/{RELEASE}/measure_serving.tsv"
    # All there are: nothing may run beside what is timed.
    threads: ALL_THREADS
    params:
        settings=settings(
            serving=CONFIG.serving,
            launches=MEASURED_LAUNCHES,
            measurement=CONFIG.measurement,
        ),
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
        environment=SERVING_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.measure_serving \
            --release {input.release:q} \
            --prompts {input.prompts:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


rule run_agent_tasks:
    input:
        release=manifest("graft_mtp"),
        verified=manifest("verify_release"),
        tasks=project_file("workflow/scion/evaluation/agent/agent_tasks.yaml"),
        code=stage_code("run_agent_tasks"),
    output:
        update(manifest("run_agent_tasks")),
    log:
        f"logs/{RELEASE}/run_agent_tasks.log",
    benchmark:
        f"benchmarks/{RELEASE}/run_agent_tasks.tsv"
    threads: SERVER_THREADS
    params:
        settings=settings(serving=CONFIG.serving, launch=LAUNCH, agent_tasks=CONFIG.agent_tasks),
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
        environment=SERVING_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.run_agent_tasks \
            --release {input.release:q} \
            --tasks {input.tasks:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
