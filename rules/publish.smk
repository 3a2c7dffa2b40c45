"""Send the releases to the hub as private drafts or pull requests; not a part of `all`.

snakemake --cores all publish                                  makes first what is missing

Input: the artifacts seal_release and sign_release.
Output: the repositories that `card.repository` names. Nothing is recorded here: what a repository
holds is asked of it each time.
"""


def published_options(config):
    """What `scion publish` is told of a release."""
    key, options = config.attestations.public_key, []
    if key:
        options += ["--key", key]
    if FAMILY:
        options += ["--collection", FAMILY.title]
    return options


# It has no output: asked for again, it looks again.
rule publish:
    input:
        [
            planned.pointer
            for each in PLANS
            for last in ("seal_release", "sign_release")
            for planned in each.all_of(last)
        ],
    localrule: True
    run:
        for each in CONFIGS:
            PLANS.plans[each.release].show()
            release, repository = f"results/{each.release}/release", each.card.repository
            options = published_options(each)
            shell("python -m scion.cli.main publish {release:q} {repository:q} {options:q}")
