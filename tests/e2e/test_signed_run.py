"""A run that is to sign what it seals: its keys are tried before any work."""

import os
import subprocess
from pathlib import Path

import pytest

from project_copy import QUICK, ProjectCopy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_keys_that_can_not_sign_end_a_run_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = ProjectCopy.make(tmp_path / "project")
    for command in (
        "ecparam -genkey -name prime256v1 -noout -out private.pem",
        "ec -in private.pem -pubout -out public.pem",
        "ecparam -genkey -name prime256v1 -noout -out other.pem",
    ):
        subprocess.run(
            ["openssl", *command.split()], cwd=project.folder, check=True, capture_output=True
        )
    project.configure(QUICK, attestations={"public_key": "public.pem"})
    monkeypatch.delenv("SCION_SIGNING_KEY", raising=False)

    def said(*options: str) -> tuple[int, str]:
        done = project.run("snakemake", "--cores", "2", "--configfile", QUICK, *options)
        return done.returncode, done.stdout + done.stderr

    status, text = said()
    assert status == 1
    assert "error: there is no private key to sign with" in text
    monkeypatch.setenv("SCION_SIGNING_KEY", "other.pem")
    status, text = said()
    assert status == 1
    assert "error: the keys are no pair" in text
    assert not os.path.exists(project.folder / "results/pico-agent-nvfp4-text-mtp/fetch_source")
    # What signs nothing needs no key.
    monkeypatch.delenv("SCION_SIGNING_KEY")
    status, text = said("--until", "lint_source")
    assert status == 0, text
