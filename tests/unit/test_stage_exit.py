"""How a stage ends that was interrupted."""

import subprocess
import sys
from pathlib import Path

STAGE = """
import sys
from scion.stages.common_options import run_stage, stage_parser

def main():
    args = stage_parser("A stage.", inputs={}).parse_args()
    return run_stage(args, lambda output: exec("raise KeyboardInterrupt"))

if __name__ == "__main__":
    sys.exit(main())
"""


def test_an_interrupt_within_code_from_a_text_ends_it_as_any_other(tmp_path: Path) -> None:
    """As where it comes while a module with data classes is imported."""
    (tmp_path / "interrupted_stage.py").write_text(STAGE)
    options = ["--output", "made.json", "--store", "store", "--environment", "sha256:x"]
    done = subprocess.run(
        [sys.executable, "-m", "interrupted_stage", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted: no half-made artifact is left\n")
