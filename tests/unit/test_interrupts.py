"""Steps that an interrupt must not divide."""

import os
import signal
import threading
from types import FrameType

import pytest

from scion.common.interrupts import deferred_interrupts


def test_an_interrupt_is_heard_when_the_step_has_ended() -> None:
    done: list[bool] = []

    def step() -> None:
        with deferred_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done


def test_own_handlers_are_called_and_put_back() -> None:
    heard: list[int] = []

    def own(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGTERM, own)
    try:
        with deferred_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_within_is_the_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="within"), deferred_interrupts():
        raise ValueError("within")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_hear_no_signals_and_change_no_handler() -> None:
    seen: list[object] = []

    def step() -> None:
        with deferred_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
