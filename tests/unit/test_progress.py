"""How far work is: what is told in the file, in lines, and how estimates of time behave."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scion.artifacts.code_digest import module_files
from scion.common import progress_report
from scion.common.progress import doing, progress, report_to
from scion.common.progress_report import State, Work, progress_file, read
from scion.common.text import duration


class Clock:
    """Time as a test has it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


def test_the_time_left_is_that_of_each_kind_at_its_own_pace(clock: Clock) -> None:
    with Work("measuring", {"starts": 2, "replies": 10, "decodes": 20}) as work:
        clock.pass_(30)
        work.advance("starts")
        for _ in range(10):
            clock.pass_(1)
            work.advance("replies")
        # Nothing is told that leaves the slow kind out.
        assert work.state().left is None
        clock.pass_(4)
        work.advance("decodes")
        assert work.state().left == pytest.approx(30 + 19 * 4)
        assert work.state().elapsed == pytest.approx(44)


def test_amounts_of_a_kind_may_differ(clock: Clock) -> None:
    with Work("decoding", {"tokens": 100}) as work:
        for tokens in (10, 30):
            clock.pass_(tokens / 10)
            work.advance("tokens", tokens)
        assert work.state().left == pytest.approx(6)


def test_an_estimate_of_steady_work_never_grows(clock: Clock) -> None:
    with Work("layers", 50) as work:
        told: list[float] = []
        for step in range(50):
            # The first one holds what comes once, and no two are alike.
            clock.pass_(20 if step == 0 else 2 + 0.3 * (step % 3))
            work.advance()
            state = work.state()
            if state.left is not None and state.elapsed is not None:
                told.append(state.left + state.elapsed)
                assert state.why == ""
        assert all(later <= 1.02 * told[0] for later in told)


def test_an_estimate_that_grows_says_which_kind_became_slower(clock: Clock) -> None:
    with Work("measuring", {"replies": 50, "decodes": 50}) as work:
        for kind in ("replies", "decodes"):
            clock.pass_(1)
            work.advance(kind)
        assert work.state().left == pytest.approx(98)
        clock.pass_(9)
        work.advance("decodes")
        state = work.state()
        assert state.left == pytest.approx(49 + 48 * 5)
        assert state.why == "was 1 min 40 s: decodes take 5 s each, not 1 s"
        clock.pass_(31)
        assert work.state().why == ""


def test_the_last_step_may_be_the_slow_one(clock: Clock) -> None:
    with Work("scoring", {"starts": 1, "documents": 3}) as work:
        for kind in ("starts", "documents", "documents"):
            clock.pass_(2)
            work.advance(kind)
            work.state()
        clock.pass_(600)
        work.advance("documents")
        state = work.state()
        assert (state.left, state.why) == (0, "")


def test_a_kind_that_has_ended_may_be_the_one_that_was_slow(clock: Clock) -> None:
    with Work("scoring", {"starts": 3, "documents": 30}) as work:
        for kind in ("starts", "documents"):
            clock.pass_(2)
            work.advance(kind)
        assert work.state().left == pytest.approx(2 * 2 + 29 * 2)
        clock.pass_(2)
        work.advance("starts")
        clock.pass_(200)
        work.advance("starts")
        state = work.state()
        assert state.left == pytest.approx(29 * 2)
        assert state.why == "was 1 min: starts take 68 s each, not 2 s"


@given(
    amounts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 40, 4000])), max_size=20),
)
def test_no_order_of_steps_breaks_an_estimate(
    amounts: list[int], steps: list[tuple[int, int]]
) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock.now)
        with Work(
            "work", {f"kind {index}": amount for index, amount in enumerate(amounts)}
        ) as work:
            for kind, seconds in steps:
                clock.pass_(seconds)
                work.advance(f"kind {kind % len(amounts)}")
                left = work.state().left
                assert left is None or left >= 0


def test_the_time_left_does_not_shrink_while_a_step_takes_longer_than_others(clock: Clock) -> None:
    with Work("layers", 4) as work:
        for _ in range(2):
            clock.pass_(10)
            work.advance()
        clock.pass_(8)
        assert work.state().left == pytest.approx(12)
        clock.pass_(500)
        assert work.state().left == pytest.approx(10)


def test_what_an_earlier_run_has_done_says_nothing_of_the_pace(clock: Clock) -> None:
    with Work("layers", 64, done=60) as work:
        for _ in range(2):
            clock.pass_(3)
            work.advance(note="1.4 GB of memory")
        assert work.state().left == pytest.approx(6)
        assert work.state().doing == "layers: 62 of 64, 1.4 GB of memory"


def test_work_that_is_done_is_wholly_done(clock: Clock) -> None:
    with Work("layers", 2) as work:
        for _ in range(2):
            clock.pass_(3)
            work.advance()
        state = work.state()
        assert (state.left, state.share_at(clock.now)) == (0, 1)


def test_a_state_is_read_later_than_it_was_told() -> None:
    state = State("layers", at=100, elapsed=60, left=40, step=15)
    assert state.left_at(110) == 30
    assert state.share_at(110) == pytest.approx(0.7)
    # No further than one step: nothing says that the next one has begun.
    assert state.left_at(500) == 25
    assert State("waiting", at=100).share_at(110) is None


def test_lines_come_twice_a_minute_where_there_is_no_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("hashing", 10e9, unit="B") as told:
        for _ in range(10):
            clock.pass_(7)
            told.advance(amount=1e9)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "hashing: 5.00 GB of 10.00 GB; about 35 s left",
        "hashing: 10.00 GB of 10.00 GB; nearly done",
    ]


# The file


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(progress_report, "_WRITE_SECONDS", 0.01)
    path = progress_file(tmp_path / "logs/fix_keys.log")
    report_to(path)
    yield path
    report_to(None)
    assert progress_report.REPORTER.path is None
    assert not [one for one in threading.enumerate() if one.name == "progress"]
    assert list(path.parent.iterdir()) == []


def wait_for(path: Path, text: str) -> State:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = read(path)
        if state is not None and state.doing == text:
            return state
        time.sleep(0.01)
    raise AssertionError(f"{text!r} was not told, but {read(path)}")


def test_work_within_work_is_told_as_a_part_of_it(told: Path) -> None:
    doing("importing")
    assert wait_for(told, "importing").elapsed is None
    with progress("variants", {"made": 2, "measured": 3}) as outer:
        outer.doing("making nvfp4_default")
        with progress("layers", 8) as inner:
            inner.advance()
            assert wait_for(told, "making nvfp4_default: layers: 1 of 8").left is None
        doing("loading weights, 10 s")
        assert wait_for(told, "making nvfp4_default: loading weights, 10 s")
        outer.advance("made")
        outer.doing("measuring")
        assert wait_for(told, "measuring").elapsed is not None
    assert wait_for(told, "")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"doing": "x"}', b"\xff"])
def test_what_is_no_state_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.progress.json"
    path.write_bytes(content)
    assert read(path) is None
    path.write_text(json.dumps({"doing": "x", "at": 1}))
    assert read(path) == State("x", 1)


def test_a_folder_that_can_not_be_written_to_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    report_to(tmp_path / "logs/fix_keys.progress.json")
    with progress("layers", 2) as work:
        work.advance()
    report_to(None)


def test_how_it_is_told_is_no_code_of_a_stage() -> None:
    files = module_files("scion.stages.quantize_nvfp4")
    names = {f"{path.parent.name}/{path.name}" for path in files}
    assert "common/progress.py" in names
    assert "common/progress_report.py" not in names


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("layers", 2) as work:
        work.advance()
        work.advance()
    assert "layers: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0.04, "0.0 s", "5 s"),
        (9.96, "10 s", "10 s"),
        (59.4, "59 s", "1 min"),
        (59.6, "1 min 00 s", "1 min"),
        (261, "4 min 21 s", "4 min 20 s"),
        (1799, "29 min 59 s", "30 min"),
        (11_100, "3 h 05 min", "3 h 05 min"),
    ],
)
def test_times_as_people_tell_them(seconds: float, exact: str, rough: str) -> None:
    assert duration(seconds) == exact
    assert duration(seconds, rough=True) == rough
