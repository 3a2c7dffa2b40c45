"""Run a command on GPUs of its own: those that no server and no other such command has.

    python -m scion.engines.vllm.on_gpus 1 python -m scion.stages.quantize_nvfp4 …

The command takes this process's place, and the locks of its GPUs with it: whatever ends it lets go
of them. Without a GPU on the machine it is run as it is.
"""

import os
import sys
from collections.abc import Sequence

from scion.common.errors import ScionError
from scion.engines.vllm.gpu_slots import VARIABLE, hold_gpus, visible


def main(arguments: Sequence[str]) -> int:
    """Take so many GPUs and become the command; returns only if that fails."""
    count, *command = arguments
    if gpus := visible(os.environ):
        try:
            os.environ[VARIABLE] = ",".join(hold_gpus(int(count), gpus))
        except ScionError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
