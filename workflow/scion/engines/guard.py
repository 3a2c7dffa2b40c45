"""Stands between a stage and its server, so that the server never outlives the stage.

`python guard.py <folder> <command …>` runs the command with the folder as its TMPDIR and exits with
its exit code. When standard input ends, because the stage closed it or is dead, even killed
outright, the guard ends the command: two SIGTERMs (vLLM swallows one that comes while it loads),
then SIGKILL for its whole process group. The folder goes with the command: servers leave sockets
and more there.

The parent-death signal of Linux does less: it reaches the front end alone, which may swallow it.
Standard library only, to start at once.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading

_TERMS = 2
# A front end with requests in flight does not end by itself; its engine is gone at once.
_TERM_SECONDS = 3.0


def main() -> None:
    """Run `sys.argv[2:]` until it ends or standard input does. The guard leads a process group."""
    folder, *command = sys.argv[1:]
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": folder}
    )

    def follow() -> None:
        code = child.wait()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(code if code >= 0 else 128 - code)

    threading.Thread(target=follow, daemon=True).start()
    while os.read(0, 1):
        pass
    for _ in range(_TERMS):
        child.terminate()
        try:
            child.wait(_TERM_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue
    shutil.rmtree(folder, ignore_errors=True)
    # What the command started, and the guard itself.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
