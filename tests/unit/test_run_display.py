"""What a run of the workflow says: from Snakemake's records to lines, bars and last words."""

import io
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import LoggerManager
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from scion.artifacts.plan import Plan
from scion.artifacts.store.store import Store
from scion.common.progress_report import State, progress_file
from scion.report.run import display as module
from scion.report.run.display import RunDisplay, progress_line, stage_line
from scion.report.run.plan_lines import DRY, IN_STORE, plan_lines
from scion.report.run.snakemake_log import RunLog


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stage_ends_while_the_bars_are_drawn() -> None:
    """What came of it takes a moment to find out; the bars are drawn four times a second."""
    display = RunDisplay(Terminal())
    ended = threading.Event()

    def run() -> None:
        for number in range(3):
            display.start(number, f"stage_{number}", None)
        for number in range(3):
            display.finish(number, lambda _stage: time.sleep(0.4) or "done")
        display.close()
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(20)


def write_state(log: Path, state: State) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    progress_file(log).write_text(json.dumps(asdict(state)))


def test_a_line_of_a_stage_has_its_time_and_its_result() -> None:
    line = stage_line("fix_keys", 61, "142 of 142 keys renamed")
    assert re.fullmatch(r"fix_keys +1 min 01 s  142 of 142 keys renamed", line)
    assert stage_line("quantize_nvfp4", 7, "").endswith("7.0 s")


def test_a_line_of_one_that_is_under_way_is_labelled() -> None:
    state = State("decode 3 of 36\x1b[2J", time.time(), elapsed=30, left=90, step=5, why="it grew")
    line = progress_line("measure_serving", 41, state)
    assert line.startswith("measure_serving: 41 s; 25 %, about 1 min 30 s left (it grew); decode 3")
    assert "\x1b" not in line


def test_a_pipe_gets_lines_and_no_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(module, "_LINE_SECONDS", 0.1)
    stream, log = io.StringIO(), tmp_path / "fix_keys.log"
    display = RunDisplay(stream)
    display.start(1, "fix_keys", log)
    display.start(2, "fetch_donor", tmp_path / "fetch_donor.log")
    write_state(log, State("shards: 1 of 3", time.time(), 1000, 2000, 5))
    time.sleep(0.5)
    display.finish(2, lambda stage: f"{stage.name} ended")
    display.finish(1, lambda stage: "142 of 142 keys renamed")
    display.close()
    *during, first, last = stream.getvalue().splitlines()
    assert first.startswith("fetch_donor ")
    assert first.endswith("fetch_donor ended")
    assert last.startswith("fix_keys ")
    lines = [line for line in during if line.startswith("fix_keys: ")]
    assert 2 <= len(lines) <= 5
    assert "33 %, about 33 min left; shards: 1 of 3" in lines[0]
    assert any(line.startswith("fetch_donor: ") for line in during)
    assert stream.getvalue().isascii()


def test_a_terminal_gets_bars_that_leave_nothing_behind(tmp_path: Path) -> None:
    stream, log = Terminal(), tmp_path / "fix_keys.log"
    display = RunDisplay(stream)
    display.start(1, "fix_keys", log)
    write_state(log, State("shards: 1 of 3", time.time(), 1000, 2000, 5))
    time.sleep(0.6)
    display.finish(1, lambda stage: "142 of 142 keys renamed")
    display.close()
    said = stream.getvalue()
    assert "33 %" in said
    assert "about 33 min left; shards" in said
    # The bar is erased, the stage's line stays.
    assert said.index("142 of 142 keys renamed") < said.rindex("\x1b[2K")
    assert said.count("142 of 142 keys renamed") == 1


def test_what_a_killed_run_has_left_is_not_taken_for_this_one(tmp_path: Path) -> None:
    log = tmp_path / "fix_keys.log"
    write_state(log, State("of yesterday", 0))
    display = RunDisplay(io.StringIO())
    display.start(1, "fix_keys", log)
    assert not progress_file(log).exists()
    display.close()


# Snakemake's records


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = Plan(tmp_path / "results/x", Store.open([str(tmp_path / "store")]))
    for stage, reads in (("fetch_source", ()), ("fix_keys", ("fetch_source",))):
        made.add(stage, reads=reads, settings={}, environment="sha256:tests")
    return made


Logged = SimpleNamespace


@pytest.fixture
def snakemake(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Logged]:
    """A logger of Snakemake's with `RunLog` in its place; `log` sends a record."""

    def start(**settings: Any) -> Logged:
        logger = logging.Logger("snakemake")
        manager = LoggerManager(logger, OutputSettings(**settings))
        (plain,) = logger.handlers
        stream = io.StringIO()
        monkeypatch.setattr(plain, "stream", stream)
        shown = RunLog(plain, dryrun=bool(settings.get("dryrun")), quiet=False)
        shown.plans, shown.logs = plan.together, ["logs/x"]
        pointers = {planned.name: planned.pointer for planned in plan.stages.values()}
        shown._display = RunDisplay(stream)
        logger.handlers[:] = [shown]

        def log(event: LogEvent | None, text: str = "", level: int = logging.INFO, **extra: Any):
            if "rule_name" in extra:
                extra["output"] = [str(pointers.get(extra["rule_name"], "elsewhere"))]
            logger.log(level, text, extra={"event": event, **extra} if event else extra)

        return Logged(log=log, stream=stream, shown=shown, manager=manager)

    return start


def job(name: str, number: int, log: Path) -> dict[str, Any]:
    return {"rule_name": name, "jobid": number, "log": [str(log)]}


def run_two(logged: Logged, folder: Path) -> None:
    logged.log(LogEvent.WORKFLOW_STARTED)
    logged.log(LogEvent.RUN_INFO, stats={"fetch_source": 1, "fix_keys": 1, "all": 1, "total": 3})
    logged.log(None, "Select jobs to execute...")
    logged.log(LogEvent.JOB_INFO, **job("fetch_source", 4, folder / "fetch_source.log"))
    logged.log(LogEvent.JOB_FINISHED, job_id=4)


def test_a_run_is_a_line_a_stage(
    snakemake: Callable[..., Logged], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = snakemake()
    logged.log(None, "Assuming unrestricted shared filesystem usage.")
    run_two(logged, tmp_path)
    logged.log(LogEvent.JOB_INFO, **job("fix_keys", 5, tmp_path / "fix_keys.log"))
    logged.log(LogEvent.JOB_FINISHED, job_id=5)
    logged.log(LogEvent.JOB_INFO, **job("all", 0, tmp_path / "all.log"))
    logged.log(LogEvent.JOB_FINISHED, job_id=0)
    logged.shown.end()
    said = logged.stream.getvalue().splitlines()
    assert said[0] == "running 2 stages; logs: logs/x"
    assert [line.split()[0] for line in said[1:]] == ["fetch_source", "fix_keys"]
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("made in ")
    assert first.endswith(": 2 stages")
    assert last == "logs:        logs/x"


def test_a_fault_in_showing_does_not_end_the_run(
    snakemake: Callable[..., Logged],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logged = snakemake()
    monkeypatch.setattr(logged.shown, "_result", None)
    run_two(logged, tmp_path)
    assert "TypeError" in capsys.readouterr().err
    logged.log(LogEvent.JOB_INFO, **job("fix_keys", 5, tmp_path / "fix_keys.log"))


def test_a_warning_of_snakemake_is_said(snakemake: Callable[..., Logged], tmp_path: Path) -> None:
    logged = snakemake()
    run_two(logged, tmp_path)
    logged.log(None, "the disk is slow", logging.WARNING)
    assert "the disk is slow" in logged.stream.getvalue()


def test_a_failure_is_said_once_last_and_with_its_log(
    snakemake: Callable[..., Logged], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged, log = snakemake(), tmp_path / "fix_keys.log"
    run_two(logged, tmp_path)
    log.write_text("renaming\nerror: a key is odd\n  where:    there\n  hint:     rename it\n")
    logged.log(LogEvent.JOB_INFO, **job("fix_keys", 5, log))
    logged.log(LogEvent.ERROR, "RuleException", logging.ERROR, exception="RuleException")
    logged.log(LogEvent.JOB_ERROR, "Error in rule", logging.ERROR, **job("fix_keys", 5, log))
    logged.log(None, "Exiting because a job execution failed.", logging.ERROR)
    logged.log(LogEvent.ERROR, "WorkflowError", logging.ERROR, exception="WorkflowError")
    logged.shown.end()
    said = logged.stream.getvalue().splitlines()
    assert [line.split()[0] for line in said] == ["running", "fetch_source", "fix_keys"]
    assert said[-1].endswith("failed")
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        f"error: a key is odd\n  where:    there\n  hint:     rename it\n  log:      {log}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "Terminating processes on user request, this might take some time.",
        "Will exit after finishing currently running jobs (scheduler).",
    ],
)
def test_a_run_that_is_stopped_says_how_to_go_on(
    snakemake: Callable[..., Logged],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    logged, log = snakemake(), tmp_path / "fix_keys.log"
    run_two(logged, tmp_path)
    logged.log(LogEvent.JOB_INFO, **job("fix_keys", 5, log))
    logged.log(None, text)
    logged.log(LogEvent.JOB_ERROR, "Error in rule", logging.ERROR, **job("fix_keys", 5, log))
    logged.log(LogEvent.ERROR, "WorkflowError", logging.ERROR, exception="WorkflowError")
    logged.shown.end()
    assert logged.stream.getvalue().splitlines()[-1].endswith("interrupted")
    assert capsys.readouterr().err == "interrupted: finished stages are kept; run again to go on\n"


def test_an_error_of_snakemake_itself_is_its_own(
    snakemake: Callable[..., Logged], capsys: pytest.CaptureFixture[str]
) -> None:
    logged = snakemake()
    logged.log(LogEvent.WORKFLOW_STARTED)
    logged.log(LogEvent.ERROR, "No rule to produce x", logging.ERROR, exception="MissingRule")
    logged.shown.end()
    assert logged.stream.getvalue() == "No rule to produce x\n"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("counted", [False, True], ids=["said", "counted"])
def test_nothing_to_do_is_one_line(
    snakemake: Callable[..., Logged],
    plan: Plan,
    capsys: pytest.CaptureFixture[str],
    counted: bool,
) -> None:
    logged = snakemake()
    logged.log(LogEvent.WORKFLOW_STARTED)
    if counted:
        logged.log(LogEvent.RUN_INFO, stats={"total": 0})
    else:
        logged.log(None, NOTHING_TO_BE_DONE_MSG)
    logged.shown.end()
    assert logged.stream.getvalue() == ""
    told = f"nothing to do: what is asked for is in {plan.folder}\n"
    assert capsys.readouterr() == (told, "")


def test_a_dry_run_tells_each_stage_in_the_order_of_the_plan(
    snakemake: Callable[..., Logged],
    plan: Plan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logged = snakemake(dryrun=True)
    logged.log(LogEvent.WORKFLOW_STARTED)
    logged.log(LogEvent.RUN_INFO, stats={"fetch_source": 1, "fix_keys": 1, "all": 1, "total": 3})
    for number, name in enumerate(("fix_keys", "fetch_source", "all")):
        logged.log(LogEvent.JOB_INFO, **job(name, number, tmp_path / "log"))
    logged.shown.end()
    assert logged.stream.getvalue() == ""
    assert capsys.readouterr().out.splitlines() == [
        f"would run 2 stages for {plan.folder}:",
        "  fetch_source      not made yet",
        "  fix_keys          not made yet",
        "a dry run: nothing was changed",
    ]


def test_a_dry_run_says_that_the_store_may_have_some_of_it(plan: Plan) -> None:
    running = [plan.stages["fetch_source"]]
    assert len(plan_lines(plan.together, running)) == 3
    plan.store.records.mkdir(parents=True)
    (plan.store.records / "0.json").touch()
    assert plan_lines(plan.together, running)[2:] == [IN_STORE, DRY]


def test_what_is_no_run_is_snakemake_s(
    snakemake: Callable[..., Logged], capsys: pytest.CaptureFixture[str]
) -> None:
    logged = snakemake()
    logged.log(None, "Creating report...")
    logged.shown.end()
    assert logged.stream.getvalue() == "Creating report...\n"
    assert capsys.readouterr() == ("", "")
