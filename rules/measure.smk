"""Measure the release on a real server.

Input: the artifacts graft_mtp, heal_mtp or quantize_mtp, and verify_release (nothing is measured
that was not verified).
Output: the artifacts measure_serving and run_agent_tasks.
"""

MEASURE_SERVING = plan(
    "measure_serving",
    lambda config: dict(
        reads={"release": whole(config), "verified": "verify_release"},
        files={"prompts": config.measurement.prompts},
        settings=settings(
            serving=config.serving,
            launches=[config.launch(name) for name in config.measurement.launches],
            measurement=config.measurement,
        ),
        environment=serving_environment(config),
        threads=timed_threads,
        beside=server_options(config),
    ),
)


rule measure_serving:
    input:
        unpack(MEASURE_SERVING.input),
    output:
        MEASURE_SERVING.pointer,
    log:
        MEASURE_SERVING.log,
    benchmark:
        MEASURE_SERVING.benchmark
    threads: MEASURE_SERVING.threads
    resources:
        **MEASURE_SERVING.resources,
    params:
        **MEASURE_SERVING.params,
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
    lambda config: dict(
        reads={"release": whole(config), "verified": "verify_release"},
        files={"tasks": AGENT_TASKS},
        settings=settings(
            serving=config.serving, launch=launch(config), agent_tasks=config.agent_tasks
        ),
        environment=serving_environment(config),
        threads=server_threads,
        beside=server_options(config),
    ),
)


rule run_agent_tasks:
    input:
        unpack(RUN_AGENT_TASKS.input),
    output:
        RUN_AGENT_TASKS.pointer,
    log:
        RUN_AGENT_TASKS.log,
    benchmark:
        RUN_AGENT_TASKS.benchmark
    threads: RUN_AGENT_TASKS.threads
    resources:
        **RUN_AGENT_TASKS.resources,
    params:
        **RUN_AGENT_TASKS.params,
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
