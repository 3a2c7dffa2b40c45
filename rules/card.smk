"""Write the model card with its pictures, and seal the release.

Input: the artifacts of all stages, the card's template and those of its sections.
Output: the artifacts render_card and seal_release, which the workflow puts into
`results/<release>/release`, the folder that is published.

`snakemake --report report.zip` shows the pictures and the card; it needs no network. A single
report.html would hold the pictures as `data:…;filename=…` links, under which Chromium 147 shows no
SVG.
"""

from scion.artifacts.software import is_outdated, this_software
from scion.report.card.page import PAGE
from scion.report.measurements import MEASUREMENTS, measured, picture_names


report: "../workflow/report/workflow.rst"


EVIDENCE = (
    "fetch_source",
    *([DONOR] if DONOR else []),
    *(["fetch_base"] if CONFIG.quality.base else []),
    "lint_source",
    "fix_keys",
    "extract_text",
    "quantize_nvfp4",
    "verify_release",
    # What is measured, in the order of the rules, in which the card lists the steps.
    *(rule.name for rule in workflow.rules if measured(rule.name, CONFIG)),
)


RENDER_CARD = plan(
    "render_card",
    reads={"release": "graft_mtp"},
    evidence=EVIDENCE,
    files={
        "template": project_file("workflow/templates/card.md.jinja"),
        # Of all: that of a measurement which was left out says so.
        "sections": [
            project_file(f"workflow/templates/sections/{stage}.md.jinja") for stage in MEASUREMENTS
        ],
        "tasks": AGENT_TASKS,
    },
    settings=settings(card=CONFIG.card, launches=CONFIG.launches),
    environment=ROOT_ENVIRONMENT,
    is_outdated=is_outdated,
)


rule render_card:
    input:
        **RENDER_CARD.input,
    output:
        pointer=RENDER_CARD.pointer,
        card=report(
            f"{RENDER_CARD.copies}/{PAGE}",
            caption="../workflow/report/card.rst",
            category="Model card",
            labels={"result": "card"},
        ),
        pictures=[
            report(
                f"{RENDER_CARD.copies}/pictures/{name}.svg",
                caption=f"../workflow/report/{name}.rst",
                category="Pictures",
                labels={"result": name},
            )
            for name in picture_names(CONFIG)
        ],
    log:
        RENDER_CARD.log,
    benchmark:
        RENDER_CARD.benchmark
    params:
        **RENDER_CARD.params,
        # By a function, because the lint takes a plain value for a hard-coded path of an output.
        copies=lambda wildcards: RENDER_CARD.copies,
        # Named, and no part of the plan: another commit of the same code makes the same card.
        made_by=lambda wildcards: json.dumps(this_software().record()),
    shell:
        r"""
        python -m scion.stages.render_card \
            --release {input.release:q} \
            --evidence {input.evidence:q} \
            --template {params.template:q} \
            --sections {params.sections:q} \
            --tasks {params.tasks:q} \
            --settings {params.settings:q} \
            --made-by {params.made_by:q} \
            --output {output.pointer:q} \
            --copies {params.copies:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


SEAL_RELEASE = plan(
    "seal_release",
    reads={"release": "graft_mtp", "card": "render_card"},
    evidence=EVIDENCE,
    environment=ROOT_ENVIRONMENT,
    is_outdated=is_outdated,
)


rule seal_release:
    input:
        **SEAL_RELEASE.input,
    output:
        SEAL_RELEASE.pointer,
    log:
        SEAL_RELEASE.log,
    benchmark:
        SEAL_RELEASE.benchmark
    threads: 8
    params:
        **SEAL_RELEASE.params,
    shell:
        r"""
        python -m scion.stages.seal_release \
            --release {input.release:q} \
            --card {input.card:q} \
            --evidence {input.evidence:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
