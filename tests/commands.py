"""The stages' command lines, run as processes of their own, or in this one."""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoints import half_made, snapshot

PARTS = ("where:", "expected:", "found:", "hint:")


def command(stage: str, **options: object) -> list[str]:
    """`python -m scion.stages.<stage>` with its options, `environment` and `store` added.

    The value of an option may be a list of values. The store is that of the pointers that are
    read, if any, or lies beside the output.
    """
    arguments: list[str] = []
    read = [value for name, value in options.items() if name != "output"]
    stores = [path.parent / ".store" for path in read if isinstance(path, Path)]
    own = Path(str(options["output"])).parent / ".store"
    store = next((folder for folder in stores if folder.is_dir()), own)
    for name, value in {"environment": "sha256:commands", "store": store, **options}.items():
        values: list[object] = value if isinstance(value, list) else [value]
        arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return [sys.executable, "-m", f"scion.stages.{stage}", *arguments]


def pointer(path: Path) -> Path:
    """The pointer of an artifact that is shown at a path."""
    return path.with_name(f"{path.name}.json")


def run(stage: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a stage to its end."""
    return subprocess.run(command(stage, **options), capture_output=True, text=True)


def main(stage: str, *arguments: object) -> int:
    """Run a stage's command line in this process, for one that imports longer than it runs."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [stage, *map(str, arguments)])
            return importlib.import_module(f"scion.stages.{stage}").main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def interrupt(
    stage: str, number: signal.Signals, *, when: Callable[[str], bool], **options: object
) -> subprocess.CompletedProcess[str]:
    """Start a stage, send it a signal once `when` holds of what it has said, wait for its end."""
    started = command(stage, **options)
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(started, stderr=log) as process:

        def output() -> str:
            return os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")

        deadline = time.monotonic() + 120
        while not when(output()):
            assert process.poll() is None, f"{stage} ended before it was interrupted: {output()}"
            assert time.monotonic() < deadline, f"{stage} did not come as far in two minutes"
            time.sleep(0.001)
        process.send_signal(number)
        process.wait()
        return subprocess.CompletedProcess(started, process.returncode, "", output())


class Earlier:
    """An artifact as it was before a stage ran, to be compared with what is there afterwards."""

    def __init__(self, output: Path) -> None:
        """Remember the files of the artifact's folder."""
        self.output = output
        self.files = snapshot(output)

    def check(self) -> None:
        """Assert that the artifact is what it was, and that nothing half-made lies beside it."""
        assert snapshot(self.output) == self.files
        assert half_made(self.output.parent) == []


def check_refusal(errors: str, *texts: str) -> None:
    """Assert one clear message: each of its parts, each of `texts`, and no traceback."""
    assert "Traceback" not in errors
    message = errors[errors.index("error: ") :]
    for text in (*PARTS, *texts):
        assert text in message, message
