"""Make several recipes of the source, and table them; not a part of the release.

snakemake --cores all recipes                                  those of `comparison.variants`

Input: the artifacts extract_text and, where there is a donor, fetch_donor, or fix_keys where the own
head stays; the data to calibrate and to measure with.
Output: the artifact compare_recipes.
"""

COMPARE_RECIPES = plan(
    "compare_recipes",
    lambda config: dict(
        reads={
            "text": "extract_text",
            "donor": donor(config),
            "own_head": "fix_keys" if config.mtp.own_head == "kept" else None,
        },
        files={
            "calibration": calibration_files(config),
            "chats": config.quality.chats,
            "texts": config.quality.texts or [],
            "prompts": config.measurement.prompts,
            "tasks": AGENT_TASKS,
        },
        locked=calibration_sets(config),
        settings=settings(
            quantization=config.quantization,
            comparison=config.comparison,
            serving=config.serving,
            launch=launch(config),
        ),
        environment=serving_environment(config),
        # All there are: nothing may run beside what is timed.
        threads=lambda config: ALL_THREADS,
        beside=server_options(config),
    ),
)


rule compare_recipes:
    input:
        unpack(COMPARE_RECIPES.input),
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
    threads: COMPARE_RECIPES.threads
    resources:
        **COMPARE_RECIPES.resources,
    params:
        **COMPARE_RECIPES.params,
        copies=subpath(output.picture, parent=True),
    shell:
        r"""
        python -m scion.stages.compare_recipes \
            --text {input.text:q} \
            --donor {input.donor:q} \
            --own-head {input.own_head:q} \
            --chats {params.chats:q} \
            --texts {params.texts:q} \
            --prompts {params.prompts:q} \
            --tasks {params.tasks:q} \
            --settings {params.settings:q} \
            --lock {params.lock:q} \
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


# Snakemake takes no rule with wildcards for a target.
rule recipes:
    input:
        lambda wildcards: asked_for("compare_recipes"),
