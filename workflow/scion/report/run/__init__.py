"""What a run of the workflow says in the terminal: a line a stage, what is under way, the end.

- `display.RunDisplay`: the lines, and bars of what is under way; elsewhere than on a terminal a
  line twice a minute.
- `snakemake_log.RunLog`: takes the place of Snakemake's own words there; rules/terminal.smk sets it
  up. It is the one module that imports Snakemake.
- `results.stage_result`: what came of a stage, in a few words of its artifact.
- `plan_lines.plan_lines`: `snakemake -n`: what would run, and why.
- `ending`: the last words: the release, or what went wrong.
"""
