"""Make several recipes of the source, and table them; not a part of the release.

snakemake --cores all compare_recipes                          those of `comparison.variants`

Input: the artifacts extract_text and fetch_donor, the data to calibrate and to measure with.
Output: the artifact compare_recipes.
"""


rule compare_recipes:
    input:
        text=manifest("extract_text"),
        donor=manifest("fetch_donor"),
        calibration=[local_file(dataset) for dataset in CALIBRATION_DATASETS],
        chats=CONFIG.quality.chats,
        texts=CONFIG.quality.texts or [],
        prompts=CONFIG.measurement.prompts,
        tasks=project_file("workflow/scion/evaluation/agent/agent_tasks.yaml"),
        code=stage_code("compare_recipes"),
    output:
        manifest=update(manifest("compare_recipes")),
        picture=report(
            update(f"results/{RELEASE}/compare_recipes/recipes.svg"),
            caption="../workflow/report/recipes.rst",
            category="Pictures",
            labels={"result": "recipes"},
        ),
    log:
        f"logs/{RELEASE}/compare_recipes.log",
    benchmark:
        f"benchmarks/{RELEASE}/compare_recipes.tsv"
    # All there are: nothing may run beside what is timed.
    threads: ALL_THREADS
    params:
        settings=settings(
            quantization=CONFIG.quantization,
            comparison=CONFIG.comparison,
            serving=CONFIG.serving,
            launch=LAUNCH,
        ),
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
        environment=SERVING_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.compare_recipes \
            --text {input.text:q} \
            --donor {input.donor:q} \
            --chats {input.chats:q} \
            --texts {input.texts:q} \
            --prompts {input.prompts:q} \
            --tasks {input.tasks:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output.manifest:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
