"""What a run keeps of weights that no release consists of. No rules here.

Stages whose weights were dropped, and are read by a stage that has to run, are planned anew; a
source is fetched only when there is room for it; and while the run goes on, what is not read any
more is dropped. `scratch` in the configuration says whether.
"""

from scion.artifacts.plan import before_those_that_read
from scion.artifacts.scratch import ScratchKeeper, earlier_readers
from scion.common.text import size

SCRATCH = CONFIGS[0].scratch
# What the run's targets are made from.
ASKED = {}


def asked_for(*stages):
    """The pointers of stages, and of all that they are made from, as a target's input.

    Weights that were dropped, and that a stage which has to run reads, are planned anew. Whether it
    has to is known only now, when all stages are planned.
    """
    asked = PLANS.all_of(*stages)
    ASKED.update(dict.fromkeys(asked))
    PLANS.settle(asked)
    return [str(planned.pointer) for planned in asked]


def sources_in_turn(most):
    """By stage that fetches a source, what has to end before it."""
    stages = before_those_that_read(PLANS.all_of(*RESULTS))
    places = {stage: place for place, stage in enumerate(stages)}
    reads = [[places[read] for read in stage.reads.values()] for stage in stages]
    found = earlier_readers([stage.name for stage in stages], reads, most)
    return {stages[place]: [stages[each] for each in before] for place, before in found.items()}


if SCRATCH.sources is not None:
    EARLIER |= sources_in_turn(SCRATCH.sources)


@functools.cache
def scratch_keeper():
    """What drops weights: of nothing that the results, or the run's targets, are still made from."""
    wanted = dict.fromkeys([*PLANS.all_of(*RESULTS), *ASKED])
    return ScratchKeeper(PLANS, list(wanted), STORE, running=unfinished)


def unfinished():
    """The pointers that jobs of this run are still to write."""
    jobs = workflow.dag.needrun_jobs() if workflow.dag is not None else ()
    return [str(pointer) for job in jobs for pointer in job.output]


def begin_scratch():
    """Drop weights while the run goes on."""
    if SCRATCH.drop_weights:
        scratch_keeper().begin()


def end_scratch():
    """Drop what the last stages have read, also where nothing had to be run."""
    changes_nothing = workflow.executor_plugin is None or workflow.dryrun or workflow.touch
    if changes_nothing or not SCRATCH.drop_weights:
        return
    keeper = scratch_keeper()
    try:
        keeper.end()
    except (ScionError, OSError) as error:
        print(f"error: weights can't be dropped: {error}", file=sys.stderr)
    if keeper.dropped:
        count, room = len(keeper.dropped), size(sum(keeper.dropped.values()))
        of = f"{count} artifacts" if count > 1 else "an artifact"
        print(f"dropped the weights of {of}: {room}", file=sys.stderr)


if workflow.is_main_process:
    atexit.register(end_scratch)
