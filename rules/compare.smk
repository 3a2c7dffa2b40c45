"""Make several recipes of the source, and table them; not a part of the release.

snakemake --cores all compare_recipes                          those of `comparison.variants`

Input: the artifacts extract_text and, where there is a donor, fetch_donor; the data to calibrate and to measure with.
Output: the artifact compare_recipes.
"""

COMPARE_RECIPES = plan(
    "compare_recipes",
    reads={"text": "extract_text", "donor": DONOR},
    files={
        "calibration": [*map(local_file, CALIBRATION_DATASETS)],
        "chats": CONFIG.quality.chats,
        "texts": CONFIG.quality.texts or [],
        "prompts": CONFIG.measurement.prompts,
        "tasks": AGENT_TASKS,
    },
    settings=settings(
        quantization=CONFIG.quantization,
        comparison=CONFIG.comparison,
        serving=CONFIG.serving,
        launch=LAUNCH,
    ),
    environment=SERVING_ENVIRONMENT,
)


rule compare_recipes:
    input:
        **COMPARE_RECIPES.input,
    output:
        pointer=COMPARE_RECIPES.pointer,
        picture=report(
            f"{COMPARE_RECIPES.copies}/recipes.svg",
            caption="../workflow/report/recipes.rst",
            category="Pictures",
            labels={"result": "recipes"},
        ),
    log:
        COMPARE_RECIPES.log,
    benchmark:
        COMPARE_RECIPES.benchmark
    # All there are: nothing may run beside what is timed.
    threads: ALL_THREADS
    params:
        **COMPARE_RECIPES.params,
        # By a function, as in rules/card.smk.
        copies=lambda wildcards: COMPARE_RECIPES.copies,
        python=SERVING_PYTHON,
        log_folder=f"logs/{RELEASE}",
    shell:
        r"""
        python -m scion.stages.compare_recipes \
            --text {input.text:q} \
            --donor {input.donor:q} \
            --chats {params.chats:q} \
            --texts {params.texts:q} \
            --prompts {params.prompts:q} \
            --tasks {params.tasks:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output.pointer:q} \
            --copies {params.copies:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
