"""Threads that ask servers."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def unawaited_pool(workers: int) -> Generator[ThreadPoolExecutor]:
    """A pool that a failure or an interrupt leaves at once: what waits in it is not begun any more.

    What runs is not waited for; it ends with its server.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
