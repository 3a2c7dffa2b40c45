"""Compare the releases of a family, on one server in one run.

Input: the artifacts graft_mtp, heal_mtp or quantize_mtp, verify_release, measure_serving,
run_agent_tasks and evaluate_quality of all of them.
Output: the artifacts compare_family, which each card quotes, and render_family, a page with a
picture; `results/<family>` shows them.
"""

COMPARE_FAMILY = plan(
    "compare_family",
    lambda config: dict(
        reads={
            "releases": of_all(whole),
            "verified": of_all("verify_release"),
            "serving": of_all("measure_serving"),
            "agent_tasks": of_all("run_agent_tasks"),
            "quality": of_all("evaluate_quality"),
        },
        files={"prompts": config.measurement.prompts},
        settings=settings(
            family=config.family,
            members=[member(each) for each in CONFIGS],
            serving=config.serving,
            measurement=config.measurement,
        ),
        environment=serving_environment(config),
        # All there are: nothing may run beside what is timed.
        threads=lambda config: ALL_THREADS,
        beside=server_options(config),
    ),
    FAMILY_CONFIGS,
)


rule compare_family:
    input:
        unpack(COMPARE_FAMILY.input),
    output:
        COMPARE_FAMILY.pointer,
    log:
        COMPARE_FAMILY.log,
    benchmark:
        COMPARE_FAMILY.benchmark
    threads: COMPARE_FAMILY.threads
    resources:
        **COMPARE_FAMILY.resources,
    params:
        **COMPARE_FAMILY.params,
    shell:
        r"""
        python -m scion.stages.compare_family \
            --releases {input.releases:q} \
            --serving {input.serving:q} \
            --agent-tasks {input.agent_tasks:q} \
            --quality {input.quality:q} \
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


RENDER_FAMILY = plan(
    "render_family",
    lambda config: dict(
        reads={"compared": "compare_family"},
        files={"template": project_file("workflow/templates/family.md.jinja")},
        environment=ROOT_ENVIRONMENT,
    ),
    FAMILY_CONFIGS,
)


rule render_family:
    input:
        unpack(RENDER_FAMILY.input),
    output:
        pointer=RENDER_FAMILY.pointer,
        picture=report(
            f"{RENDER_FAMILY.copies}/family.svg",
            caption="../workflow/report/family.rst",
            category="Pictures",
            subcategory="{release}",
            labels={"result": "family"},
        ),
    log:
        RENDER_FAMILY.log,
    benchmark:
        RENDER_FAMILY.benchmark
    resources:
        **RENDER_FAMILY.resources,
    params:
        **RENDER_FAMILY.params,
        copies=subpath(output.picture, parent=True),
    shell:
        r"""
        python -m scion.stages.render_family \
            --compared {input.compared:q} \
            --template {params.template:q} \
            --output {output.pointer:q} \
            --copies {params.copies:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
