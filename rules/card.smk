"""Write the model card with its pictures, and seal the release.

Input: the artifacts of all stages, the card's template and those of its sections.
Output: the artifacts render_card and release, the folder that is published.

`snakemake --report report.zip` shows the pictures and the card; it needs no network. A single
report.html would hold the pictures as `data:…;filename=…` links, under which Chromium 147 shows no
SVG.
"""

from scion.report.measurements import MEASUREMENTS, measured, picture_names


report: "../workflow/report/workflow.rst"


EVIDENCE = (
    "fetch_source",
    "fetch_donor",
    *(["fetch_base"] if CONFIG.quality.base else []),
    "lint_source",
    "fix_keys",
    "extract_text",
    "quantize_nvfp4",
    "verify_release",
    # What is measured, in the order of the rules, in which the card lists the steps.
    *(rule.name for rule in workflow.rules if measured(rule.name, CONFIG)),
)


rule render_card:
    input:
        release=manifest("graft_mtp"),
        evidence=[manifest(stage) for stage in EVIDENCE],
        template=project_file("workflow/templates/card.md.jinja"),
        # Of all: that of a measurement which was left out says so.
        sections=[
            project_file(f"workflow/templates/sections/{stage}.md.jinja") for stage in MEASUREMENTS
        ],
        tasks=project_file("workflow/scion/evaluation/agent/agent_tasks.yaml"),
        code=stage_code("render_card"),
    output:
        manifest=update(manifest("render_card")),
        # `update`: a stage that has them already leaves them as they are.
        card=report(
            update(f"results/{RELEASE}/render_card/README.md"),
            caption="../workflow/report/card.rst",
            category="Model card",
            labels={"result": "card"},
        ),
        pictures=[
            report(
                update(f"results/{RELEASE}/render_card/pictures/{name}.svg"),
                caption=f"../workflow/report/{name}.rst",
                category="Pictures",
                labels={"result": name},
            )
            for name in picture_names(CONFIG)
        ],
    log:
        f"logs/{RELEASE}/render_card.log",
    benchmark:
        f"benchmarks/{RELEASE}/render_card.tsv"
    params:
        settings=settings(card=CONFIG.card, launches=CONFIG.launches),
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.render_card \
            --release {input.release:q} \
            --evidence {input.evidence:q} \
            --template {input.template:q} \
            --sections {input.sections:q} \
            --tasks {input.tasks:q} \
            --settings {params.settings:q} \
            --output {output.manifest:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """


rule seal_release:
    input:
        release=manifest("graft_mtp"),
        card=manifest("render_card"),
        evidence=[manifest(stage) for stage in EVIDENCE],
        code=stage_code("seal_release"),
    output:
        update(manifest("release")),
    log:
        f"logs/{RELEASE}/seal_release.log",
    benchmark:
        f"benchmarks/{RELEASE}/seal_release.tsv"
    threads: 8
    params:
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.seal_release \
            --release {input.release:q} \
            --card {input.card:q} \
            --evidence {input.evidence:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
