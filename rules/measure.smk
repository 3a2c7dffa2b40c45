"""Measure the release on a real server.

Input: the artifacts graft_mtp and verify_release (nothing is measured that was not verified).
Output: the artifacts measure_serving and run_agent_tasks.
"""

MEASURE_SERVING = plan(
    "measure_serving",
    reads={"release": "graft_mtp", "verified": "verify_release"},
    files={"prompts": CONFIG.measurement.prompts},
    settings=settings(
        serving=CONFIG.serving,
        launches=MEASURED_LAUNCHES,
        measurement=CONFIG.measurement,
    ),
    environment=SERVING_ENVIRONMENT,
)


rule measure_serving:
    input:
        **MEASURE_SERVING.input,
    output:
        MEASURE_SERVING.pointer,
    log:
        MEASURE_SERVING.log,
    benchmark:
        MEASURE_SERVING.benchmark
    # All there are: nothing may run beside what is timed.
    threads: ALL_THREADS
    params:
        **MEASURE_SERVING.params,
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
    shell:
        r"""
        python -m scion.stages.measure_serving \
            --release {input.release:q} \
            --prompts {params.prompts:q} \
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


RUN_AGENT_TASKS = plan(
    "run_agent_tasks",
    reads={"release": "graft_mtp", "verified": "verify_release"},
    files={"tasks": AGENT_TASKS},
    settings=settings(serving=CONFIG.serving, launch=LAUNCH, agent_tasks=CONFIG.agent_tasks),
    environment=SERVING_ENVIRONMENT,
)


rule run_agent_tasks:
    input:
        **RUN_AGENT_TASKS.input,
    output:
        RUN_AGENT_TASKS.pointer,
    log:
        RUN_AGENT_TASKS.log,
    benchmark:
        RUN_AGENT_TASKS.benchmark
    threads: SERVER_THREADS
    params:
        **RUN_AGENT_TASKS.params,
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
    shell:
        r"""
        python -m scion.stages.run_agent_tasks \
            --release {input.release:q} \
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
