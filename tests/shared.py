"""What a whole run of the tests makes once, however many processes run them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scion.artifacts.store.locks import exclusive


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to ask for it fills; the others wait, and find it.

    Args:
        factory: Of this process.
        name: Of the folder, among those that all processes share.
        make: Fills it; whatever it returns is dropped.
    """
    base = factory.getbasetemp()
    # pytest-xdist gives each of its workers a folder in that of the run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, mark = shared / "shared" / name, shared / "shared" / f"{name}.made"
    with exclusive(mark.with_suffix(".lock"), waiting=f"another process makes {name}"):
        if not mark.exists():
            # What is there was left by a process that failed.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder)
            mark.touch()
    return folder
