"""Takes the place of Snakemake's own words in the terminal; its log file has all of those.

What is read of Snakemake is what it offers to logger plugins: records with an event. A plugin would
have to be installed and asked for; a handler that the Snakefile sets needs neither.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import get_event
from snakemake_interface_logger_plugins.common import LogEvent

from scion.artifacts.plan import PlannedStage, Plans
from scion.report.run.display import RunDisplay, RunningStage
from scion.report.run.ending import failure_lines, made_lines, nothing_lines
from scion.report.run.plan_lines import plan_lines
from scion.report.run.results import stage_result

# Said of each run before it begins.
_PRELUDE = re.compile(
    r"Assuming unrestricted shared filesystem usage\.|"
    r"Config file .* is extended by additional config"
)
# Said after Ctrl-C.
_TERMINATING = "Terminating processes on user request"
# Said after SIGTERM, and when a stage has failed.
_WAITING = "Will exit after finishing currently running jobs"


class RunLog(logging.Handler):
    """Shows a run by `RunDisplay`; what is no run (`--lint`, `--report`, …) as Snakemake does.

    Args:
        plain: The handler whose place it takes.
        dryrun: Whether nothing is run.
        quiet: Whether only what goes wrong is to be said.

    Attributes:
        plans: The stages of all releases; None until the Snakefile knows them.
        logs: Where the words of stages, servers and Snakemake are.
    """

    def __init__(self, plain: logging.Handler, *, dryrun: bool, quiet: bool) -> None:
        super().__init__()
        self.plans: Plans | None = None
        self.logs: list[str] = []
        self._plain, self._dryrun, self._quiet = plain, dryrun, quiet
        self._display = RunDisplay(sys.stderr, quiet=quiet)
        self._runs = self._nothing = self._interrupted = self._wrong = False
        self._begin = time.monotonic()
        self._jobs: dict[int, PlannedStage] = {}
        self._planned: list[PlannedStage] = []
        self._finished: list[PlannedStage] = []
        self._failed: dict[PlannedStage, list[Path]] = {}
        self._events: dict[LogEvent, Callable[[Any], None]] = {
            LogEvent.RUN_INFO: self._counted,
            LogEvent.JOB_INFO: self._begins,
            LogEvent.JOB_FINISHED: self._ends,
            LogEvent.JOB_ERROR: self._fails,
            LogEvent.ERROR: self._error,
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of Snakemake's; a fault in showing it does not end the run."""
        try:
            self._take(record)
        except Exception:
            self.handleError(record)

    def _take(self, record: logging.LogRecord) -> None:
        event = get_event(record)
        if event is LogEvent.WORKFLOW_STARTED:
            self._runs = True
        elif not self._runs:
            if not _PRELUDE.match(record.getMessage()):
                self._plain.handle(record)
        elif event is not None and event in self._events:
            self._events[event](record)
        elif record.levelno >= logging.WARNING and not self._failed:
            self._display.say(self._plain.format(record))
        elif event is None:
            self._said(record.getMessage())

    def _said(self, text: str) -> None:
        """Something that Snakemake has no event for."""
        if text == NOTHING_TO_BE_DONE_MSG:
            self._nothing = True
        elif text.startswith(_TERMINATING):
            self._interrupted = True
        elif text.startswith(_WAITING) and not self._failed and not self._interrupted:
            self._interrupted = True
            self._display.say("stopping as soon as what is under way has ended")

    def _counted(self, record: Any) -> None:
        """All jobs are known; `all` is none of the stages."""
        stages = {planned.name for planned in self.plans.stages.values()} if self.plans else ()
        count = sum(number for rule, number in record.stats.items() if rule in stages)
        self._nothing = count == 0
        if count and not self._dryrun and not self._quiet:
            told = "1 stage" if count == 1 else f"{count} stages"
            self._display.say(f"running {told}; logs: {', '.join(self.logs)}")

    def _begins(self, record: Any) -> None:
        planned = self._stage(record)
        if planned is None:
            return
        self._jobs[record.jobid] = planned
        # It may be its second try.
        self._failed.pop(planned, None)
        if self._dryrun:
            self._planned.append(planned)
        else:
            log = Path(record.log[0]) if record.log else None
            self._display.start(record.jobid, planned.name, log, of=self._releases(planned))

    def _stage(self, record: Any) -> PlannedStage | None:
        """The stage of a job, by the first of its files."""
        pointers = self.plans.pointers if self.plans is not None and record.output else {}
        return pointers.get(Path(record.output[0])) if pointers else None

    def _releases(self, planned: PlannedStage) -> str:
        """Whose stage it is; empty where a run has one release."""
        assert self.plans is not None
        if len(self.plans.plans) == 1:
            return ""
        more = len(self.plans.releases(planned)) - 1
        return f"{planned.release} and {more} more" if more else planned.release

    def _ends(self, record: Any) -> None:
        ended = self._display.finish(
            record.job_id, lambda stage: self._result(self._jobs[record.job_id], stage)
        )
        if ended is not None:
            self._finished.append(self._jobs[record.job_id])

    def _result(self, planned: PlannedStage, stage: RunningStage) -> str:
        store = next(iter(self.plans or ())).store
        return stage_result(planned.pointer, store, log=stage.log)

    def _fails(self, record: Any) -> None:
        if (planned := self._jobs.get(record.jobid)) is not None:
            self._failed[planned] = [_named_after(planned, Path(path)) for path in record.log]
        self._display.finish(
            record.jobid, lambda stage: "interrupted" if self._interrupted else "failed"
        )

    def _error(self, record: Any) -> None:
        """Something went wrong; what a stage's failure leads to is not said a second time."""
        # As the process that ran the stage's command tells it, before Snakemake does.
        if not self._failed and not self._interrupted and record.exception != "RuleException":
            self._wrong = True
            self._display.say(self._plain.format(record))

    def close(self) -> None:
        """Snakemake is about to leave."""
        self._display.close()
        super().close()

    def end(self) -> None:
        """Say the last words, when all else is done."""
        try:
            self._last_words()
            sys.stdout.flush()
        except BrokenPipeError:
            # Nobody reads any more: nor shall Python complain when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _last_words(self) -> None:
        self._display.close()
        if self.plans is None or not self._runs or self._wrong:
            return
        if self._interrupted:
            print("interrupted: finished stages are kept; run again to go on", file=sys.stderr)
        elif self._failed:
            print("\n".join(failure_lines(self._failed)), file=sys.stderr)
        elif self._quiet:
            return
        elif self._planned:
            print("\n".join(plan_lines(self.plans, self._planned)))
        elif self._nothing:
            print("\n".join(nothing_lines(self.plans)))
        elif self._finished:
            seconds = time.monotonic() - self._begin
            print("\n".join(made_lines(self.plans, self._finished, seconds, self.logs)))


def _named_after(planned: PlannedStage, log: Path) -> Path:
    """A log under the name of its stage, where that is a link to it."""
    link = log.with_name(f"{planned.name}{log.suffix}")
    return link if link.is_symlink() and os.readlink(link) == log.name else log
