"""Scion: from a bf16 checkpoint of the Qwen3.5/3.6 family to a served, measured, sealed release.

snakemake --cores all                                         the embedded pair of tiny models
snakemake --cores all --configfile config/releases/X.yaml     a release of your own
snakemake --cores all --configfile config/families/X.yaml     several, which are compared
"""

from snakemake.utils import min_version

min_version("9.20")


include: "rules/terminal.smk"


configfile: "config/default.yaml"


if not workflow.overwrite_configfiles:

    configfile: "config/releases/pico-agent-nvfp4-text-mtp.yaml"


include: "rules/common.smk"
include: "rules/hooks.smk"
include: "rules/fetch.smk"
include: "rules/convert.smk"
include: "rules/quantize.smk"
include: "rules/graft.smk"
include: "rules/heal.smk"
include: "rules/verify.smk"
include: "rules/measure.smk"
include: "rules/evaluate.smk"
include: "rules/family.smk"
include: "rules/judge.smk"
include: "rules/card.smk"
include: "rules/compare.smk"
include: "rules/scratch.smk"
include: "rules/publish.smk"
include: "rules/plan_file.smk"


rule all:
    default_target: True
    input:
        # Each of them: one that is gone is made again, though the release may stand without it.
        lambda wildcards: asked_for(*RESULTS),


onstart:
    require_pinned_sources()
    require_environments()
    require_scheduler()
    require_servers()
    require_keys()
    begin_store()
    begin_logs()
    begin_servers()
    begin_scratch()
