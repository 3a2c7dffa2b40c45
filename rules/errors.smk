"""How a run that fails ends: with what the stage said, once, and nothing of Snakemake's after it.

A stage's words go to the terminal and to its log as it says them. Snakemake would repeat them, with
the command and the log, in three more places; its own log in .snakemake/log has all of that.
"""

import atexit
import logging
import sys
from pathlib import Path

from scion.common.errors import ScionError
from snakemake.logging import get_event, logger
from snakemake_interface_logger_plugins.common import LogEvent


class LastWord(logging.Filter):
    """Keeps what Snakemake says of a stage that failed from the terminal.

    Attributes:
        failed: Log by name of each stage that failed.
        said_more: Whether other stages went on meanwhile, so that the error is not the last line.
    """

    def __init__(self):
        super().__init__()
        self.failed = {}
        self.said_more = False

    def filter(self, record):
        event = get_event(record)
        if event is LogEvent.JOB_ERROR:
            self.failed[record.rule_name] = [Path(path) for path in record.log]
            return False
        # A stage's command that failed, as the process that ran it tells it.
        if event is LogEvent.ERROR and record.exception == "RuleException":
            return False
        if not self.failed:
            return True
        self.said_more = self.said_more or event is LogEvent.JOB_FINISHED
        return event is not None and event is not LogEvent.ERROR

    def say(self):
        """Say what went wrong where it is not the last thing that was said."""
        for rule, logs in self.failed.items():
            said = "".join(path.read_text(errors="replace") for path in logs if path.is_file())
            _, found, error = f"\n{said}".rpartition("\nerror: ")
            if not found:
                where = f"\n  where:    {', '.join(map(str, logs))}"
                print(f"error: {rule} ended without a word of its own{where}", file=sys.stderr)
            elif self.said_more:
                print(f"error: {error.rstrip()}", file=sys.stderr)


LAST_WORD = LastWord()
# --verbose is asked to say it all.
if logger.level > logging.DEBUG:
    for handler in logger.handlers:
        handler.addFilter(LAST_WORD)
    if workflow.is_main_process:
        # Snakemake's own last lines come after its hooks.
        atexit.register(LAST_WORD.say)


def end(error):
    """End the run with a message, and without the lines of the Snakefile that led to it."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def or_end(function, *arguments, **named):
    """What a function returns; what is wrong ends the run."""
    try:
        return function(*arguments, **named)
    except ScionError as error:
        end(error)
