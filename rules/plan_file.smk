"""The plan of a run as a file, where the environment asks for one, as `scion simulate` does.

Input: none. Output: the file that the environment names. Snakemake ends after it, before it makes a
DAG of its own. No rules here.
"""

from scion.artifacts.plan import before_those_that_read

PLAN_FILE = os.environ.get("SCION_PLAN_FILE")


def write_plan_file(path):
    """Write all jobs of a whole run, those whose artifacts are there among them."""
    # As late as in `release_size`.
    from scion.config.simulation.run_plan import planned_job, write_plan

    stages = before_those_that_read(PLANS.all_of(*RESULTS))
    places = {stage.key: place for place, stage in enumerate(stages)}
    write_plan(
        path,
        [
            planned_job(
                stage,
                job.config,
                size=release_size(CONFIGS[0] if job.config.release == FAMILY_NAME else job.config),
                reads=[places[read.key] for read in stage.reads.values()],
                priority=workflow.get_rule(stage.name).priority,
                cores=job.threads(),
                releases=len(CONFIGS),
            )
            for stage, job in ((stage, JOBS[stage.key]) for stage in stages)
        ],
    )


if PLAN_FILE and workflow.output_settings.dryrun and workflow.is_main_process:
    or_end(write_plan_file, Path(PLAN_FILE))
    sys.exit(0)
