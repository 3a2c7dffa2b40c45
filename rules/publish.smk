"""Send the releases to the hub as private drafts or pull requests; not a part of `all`.

snakemake --cores all publish                                  makes first what is missing

Input: the artifacts seal_release and sign_release.
Output: the repositories that `card.repository` names. Nothing is recorded here: what a repository
holds is asked of it each time.
"""


# It has no output: asked for again, it looks again.
rule publish:
    input:
        lambda wildcards: asked_for("seal_release", "sign_release"),
    log:
        "logs/publish.log",
    localrule: True
    run:
        for each in PLANS:
            each.show()
        commands = " && ".join(map(publication, CONFIGS))
        shell("({commands}) 2>&1 | tee -i {log:q}")
