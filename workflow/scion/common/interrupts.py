"""Steps that an interrupt must not divide."""

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred_interrupts() -> Generator[None]:
    """Let what is within end before a SIGINT or SIGTERM that comes meanwhile is heard.

    For steps of milliseconds. Outside of the main thread, where Python hears no signals, nothing
    has to be done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in _NUMBERS}
    for number in _NUMBERS:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            # None is a handler that is not Python's.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in came:
            signal.raise_signal(number)
