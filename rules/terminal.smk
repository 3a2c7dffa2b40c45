"""What a run says in the terminal: Snakemake's words and the stages' are in logs.

Rules: none. `scion.report.run` writes the lines; `--verbose` and `--printshellcmds` ask for
Snakemake's own instead, and the stages' with them.
"""

import atexit
import logging
import os
import sys

from scion.common.errors import ScionError
from scion.report.run.snakemake_log import RunLog
from snakemake.logging import logger


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


def show_run():
    """Let `RunLog` speak in Snakemake's place; None where Snakemake, or a plugin, is asked to."""
    asked, plain = workflow.output_settings, logger.handlers[:1]
    # Jobs that an executor starts elsewhere keep their words, which go to that executor's logs.
    if not workflow.is_main_process or asked.verbose or asked.debug_dag or asked.printshellcmds:
        return None
    if [handler.name for handler in plain] != ["DefaultStreamHandler"]:
        return None
    shown = RunLog(*plain, dryrun=asked.dryrun, quiet=bool(asked.quiet) and not asked.dryrun)
    logger.removeHandler(*plain)
    logger.addHandler(shown)
    # After Snakemake's own last lines, which come after its hooks.
    atexit.register(shown.end)
    return shown


SHOWN = show_run()
