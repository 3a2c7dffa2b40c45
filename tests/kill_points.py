"""Ends a stage at every step that it takes on the disk, and looks at what the next run makes of it.

A step is a call that changes a folder's names or opens a file to write: Python tells of each before
it happens (`sys.addaudithook`). The stage's module is imported once; each run is a fork, so that
hundreds of them take seconds:

    python kill_points.py '{"stage": …, "signal": 9, "results": …, "asked": […], "earlier": […]}'

`results` is a folder of results to begin from; each run gets a copy of its own. In the command
lines `asked` and `earlier` the word RESULTS stands for that copy. `earlier`, if there is one, ran
before, so that its artifact is there when the stage is killed. The last line is JSON: by step what
each of the two commands gave afterwards, and what was left half made.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints import half_made

_STEPS = {
    *("os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"),
    *("os.utime", "os.truncate"),
}


def count_steps(folder: Path, end_at: int, number: int, counter: int) -> None:
    """Count steps below a folder into a file descriptor; send the signal before one of them.

    Args:
        folder: Where steps count.
        end_at: The step, from 1 on; 0 for none.
        number: The signal.
        counter: Where the number of steps so far goes.
    """
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            counts = writes and str(arguments[0]).startswith(str(folder))
        else:
            counts = event in _STEPS and str(folder) in " ".join(map(str, arguments[:2]))
        if counts:
            seen += 1
            os.pwrite(counter, seen.to_bytes(4, "little"), 0)
            if seen == end_at:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def run(
    module: Any, arguments: Sequence[str], folder: Path, end_at: int, number: int
) -> tuple[int, int]:
    """Run a stage's `main` in a fork; its exit status as `waitpid` has it, and its steps."""
    with tempfile.TemporaryFile() as counter:
        child = os.fork()
        if child == 0:
            log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = [module.__name__, *arguments]
            count_steps(folder, end_at, number, counter.fileno())
            os._exit(module.main())
        status = os.waitpid(child, 0)[1]
        counter.seek(0)
        return status, int.from_bytes(counter.read(4), "little")


def made(arguments: Sequence[str]) -> str | None:
    """The root digest that the pointer of a command holds."""
    pointer = Path(arguments[arguments.index("--output") + 1])
    return json.loads(pointer.read_text())["root"] if pointer.is_file() else None


def sweep(wanted: dict[str, Any]) -> dict[str, Any]:
    """Kill at each step in turn."""
    module = importlib.import_module(f"scion.stages.{wanted['stage']}")
    outcomes: list[dict[str, Any]] = []
    steps = wanted.get("steps") or 1
    at = 0
    while at <= steps:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "results")
            shutil.copytree(wanted["results"], folder, symlinks=True)
            asked = [word.replace("RESULTS", str(folder)) for word in wanted["asked"]]
            earlier = [word.replace("RESULTS", str(folder)) for word in wanted["earlier"]]
            if earlier:
                assert run(module, earlier, folder, 0, 0)[0] == 0, Path(place, "log").read_text()
            status, seen = run(module, asked, folder, at, wanted["signal"])
            if at == 0:
                assert status == 0, Path(place, "log").read_text()
                steps = seen
            outcome: dict[str, Any] = {"step": at, "status": status}
            for name, arguments in (("asked", asked), ("earlier", earlier), ("again", asked)):
                if arguments:
                    code, _ = run(module, arguments, folder, 0, 0)
                    outcome[name] = made(arguments) if code == 0 else None
            outcomes.append({**outcome, "left": half_made(folder)})
            if outcome["asked"] is None:
                print(Path(place, "log").read_text(), file=sys.stderr)
        at += wanted.get("every", 1)
    return {"steps": steps, "outcomes": outcomes}


if __name__ == "__main__":
    # Not the handler of whoever started this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps(sweep(json.loads(sys.argv[1]))))
