"""Write the model card with its pictures, seal the release, and sign it where there is a key.

Input: the artifacts of all stages, the card's template and those of its sections.
Output: the artifacts render_card, seal_release and sign_release, which the workflow puts into
`results/<release>/release`, the folder that is published.

`snakemake --report report.zip` shows the pictures and the card; it needs no network. A single
report.html would hold the pictures as `data:…;filename=…` links, under which Chromium 147 shows no
SVG.
"""

from scion.artifacts.software import is_outdated, this_software
from scion.report.card.page import PAGE
from scion.report.measurements import MEASUREMENTS


report: "../workflow/report/workflow.rst"


RENDER_CARD = plan(
    "render_card",
    lambda config: dict(
        reads={"release": whole(config), "evidence": evidence(config)},
        files={
            "template": project_file("workflow/templates/card.md.jinja"),
            # Of all: that of a measurement which was left out says so.
            "sections": [
                project_file(f"workflow/templates/sections/{stage}.md.jinja")
                for stage in MEASUREMENTS
            ],
            "tasks": AGENT_TASKS,
        },
        settings=settings(card=config.tagged_card, launches=config.launches),
        environment=ROOT_ENVIRONMENT,
        is_outdated=is_outdated,
        # Named, and no part of the plan: another commit of the same code makes the same card.
        beside={"made_by": json.dumps(this_software().record())},
    ),
)


rule render_card:
    input:
        unpack(RENDER_CARD.input),
    output:
        pointer=RENDER_CARD.pointer,
        card=report(
            f"{RENDER_CARD.copies}/{PAGE}",
            caption="../workflow/report/card.rst",
            category="Model card",
            labels={"result": "card"},
        ),
        # Which there are follows from what is measured of a release.
        pictures=report(
            directory(f"{RENDER_CARD.copies}/pictures"),
            patterns=["{name}.svg"],
            caption="../workflow/report/pictures.rst",
            category="Pictures",
            labels={"result": "{name}"},
        ),
    log:
        RENDER_CARD.log,
    benchmark:
        RENDER_CARD.benchmark
    resources:
        **RENDER_CARD.resources,
    params:
        **RENDER_CARD.params,
        copies=subpath(output.card, parent=True),
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
    lambda config: dict(
        reads={"release": whole(config), "card": "render_card", "evidence": evidence(config)},
        files={"workflow": project_file("Snakefile") if config.attestations.enabled else []},
        settings=attested_settings(config),
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
        is_outdated=is_outdated,
    ),
)


rule seal_release:
    input:
        unpack(SEAL_RELEASE.input),
    output:
        SEAL_RELEASE.pointer,
    log:
        SEAL_RELEASE.log,
    benchmark:
        SEAL_RELEASE.benchmark
    threads: SEAL_RELEASE.threads
    resources:
        **SEAL_RELEASE.resources,
    params:
        **SEAL_RELEASE.params,
    shell:
        r"""
        python -m scion.stages.seal_release \
            --release {input.release:q} \
            --card {input.card:q} \
            --evidence {input.evidence:q} \
            --workflow {input.workflow:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


SIGN_RELEASE = plan(
    "sign_release",
    lambda config: (
        dict(
            reads={"release": "seal_release"},
            files={"public_key": config.attestations.public_key},
            environment=ROOT_ENVIRONMENT,
        )
        if config.attestations.public_key
        else None
    ),
)


rule sign_release:
    input:
        unpack(SIGN_RELEASE.input),
    output:
        SIGN_RELEASE.pointer,
    log:
        SIGN_RELEASE.log,
    benchmark:
        SIGN_RELEASE.benchmark
    resources:
        **SIGN_RELEASE.resources,
    params:
        **SIGN_RELEASE.params,
    shell:
        r"""
        python -m scion.stages.sign_release \
            --release {input.release:q} \
            --public-key {input.public_key:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
