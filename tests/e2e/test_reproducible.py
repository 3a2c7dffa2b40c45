"""The same source, settings and environment give the same root digests, on any number of cores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conversion import Conversion, Pico

STAGES = (
    "fetch_source",
    "fetch_donor",
    "fix_keys",
    "extract_text",
    "quantize_nvfp4",
    "graft_mtp",
    "verify_release",
)
SCRIPT = """
import json, os, sys
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from conversion import Pico, convert
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
made = convert(Pico(Path(sys.argv[1])), Path(sys.argv[2]))
print(json.dumps({stage: getattr(made, stage).root for stage in sys.argv[3:]}))
"""


@pytest.mark.timeout(300)
def test_another_folder_and_number_of_threads_give_the_same_roots(
    conversion: Conversion, pico: Pico, tmp_path: Path
) -> None:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pico.folder), str(tmp_path / "second"), *STAGES],
        env={**os.environ, "PYTHONPATH": str(tests), "OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout.splitlines()[-1])
    assert second == {stage: getattr(conversion, stage).root for stage in STAGES}
