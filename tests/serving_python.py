"""Code run by the serving environment's Python, in a fork that has imported vLLM already."""

import os
import subprocess
import tempfile
from pathlib import Path

from scion.artifacts.environments import interpreter
from scion.engines.config import Serving
from scion.engines.processes import Process, ProcessRequest, shared_socket
from scion.engines.vllm.command import variables
from scion.engines.vllm.server import environment

PYTHON = Path(__file__).parent.parent / interpreter("envs/serve-cpu")


def run_file(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a file to its end, as `python -P <file> <arguments>`, in a test that is marked `serve`.

    Args:
        script: The file.
        arguments: What it finds in `sys.argv`.
    """
    forks = shared_socket()
    assert forks is not None, "no fork server: mark the test `serve`"
    command = (str(PYTHON), "-P", str(script), *map(str, arguments))
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        request = ProcessRequest(command, environment(os.environ) | variables(Serving()))
        process = Process(forks, request, *(file.fileno() for file in (nothing, output, errors)))
        try:
            code = process.wait()
        finally:
            process.stop()
        said = (os.pread(file.fileno(), 1 << 20, 0).decode() for file in (output, errors))
        return subprocess.CompletedProcess(command, code, *said)


def run_code(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same of a text, as `python -c <text> <arguments>`."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(code)
        script.flush()
        return run_file(Path(script.name), *arguments)
