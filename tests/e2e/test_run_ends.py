"""How a run of the workflow ends that can't go on, and runs in folders with hostile names."""

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from project_copy import ProjectCopy

BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    return ProjectCopy.make(tmp_path_factory.mktemp("dollar$(touch made) {brace} 'quote"))


@contextmanager
def edited(project: ProjectCopy, stage: str, *changes: tuple[str, str]) -> Generator[None]:
    """Another code of a stage."""
    file = project.folder / f"workflow/scion/stages/{stage}.py"
    text = changed = file.read_text()
    for old, new in changes:
        assert old in changed
        changed = changed.replace(old, new)
    file.write_text(changed)
    try:
        yield
    finally:
        file.write_text(text)


NAMED = "release: headless\n"
# A fault that the plan's look at the donor does not find.
HEADLESS = (
    "local = find_head(open_pinned(location)",
    'local = find_head(open_pinned("resources/pico/pico-agent")',
)


def run(project: ProjectCopy, config: str, *options: str) -> tuple[int, str]:
    """Run Snakemake by the copy's own path, both streams in one; nothing may be made by a name."""
    (project.folder / "my.yaml").write_text(config)
    python = project.folder / ".venv/bin/python"
    done = subprocess.run(
        [python, "-m", "snakemake", "--configfile", "my.yaml", *options],
        cwd=project.folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(project.folder / "workflow")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert not list(project.folder.rglob("made"))
    return done.returncode, done.stdout


def last_error(output: str) -> str:
    """The error at the end of an output, which must hold no other, and nothing behind it."""
    assert output.count("error: ") == 1, output
    assert "Traceback" not in output
    error = output[output.index("error: ") :]
    assert all(line.startswith("  ") for line in error.splitlines()[1:]), error
    return error


def test_a_stage_that_fails_has_the_last_word(project: ProjectCopy) -> None:
    with edited(project, "fetch_donor", HEADLESS):
        code, output = run(project, NAMED, "--cores", "1", "--until", "fetch_donor")
    assert code == 1
    assert last_error(output).startswith("error: the donor has no whole MTP head")
    hint, log = output.splitlines()[-2:]
    assert "hint:" in hint
    assert log == "  log:      logs/headless/fetch_donor.log"


def test_it_has_it_too_where_another_stage_ends_later(project: ProjectCopy) -> None:
    slow = ("    return run_fetch(", "    import time\n\n    time.sleep(9)\n    return run_fetch(")
    stages = ("--until", "fetch_donor", "fetch_source")
    with edited(project, "fetch_donor", HEADLESS), edited(project, "fetch_source", slow):
        code, output = run(project, NAMED + "text_only: false\n", "--cores", "9", *stages)
    assert code == 1
    assert output[output.rindex("error: ") :].startswith("error: the donor has no whole MTP head")
    assert "log:" in output.splitlines()[-1]
    # The other one's line, and that of the one that failed, once each.
    lines = [
        line.split()[0] for line in output.splitlines() if " failed" in line or "7.74 MB" in line
    ]
    assert lines == ["fetch_donor", "fetch_source"]


def test_of_a_stage_that_is_killed_the_log_is_named(project: ProjectCopy) -> None:
    dies = "def main() -> int:\n    import os\n\n    os.kill(os.getpid(), 9)\n"
    with edited(project, "fetch_donor", ("def main() -> int:\n", dies)):
        code, output = run(project, "release: killed\n", "--cores", "1", "--until", "fetch_donor")
    assert code == 1
    error = last_error(output)
    assert error.startswith("error: fetch_donor ended without a word of its own")
    assert "logs/killed/fetch_donor.log" in error


def test_what_is_planned_is_told_as_snakemake_has_it(project: ProjectCopy) -> None:
    (project.folder / "my.yaml").write_text("release: told\n")
    options = ("--configfile", "my.yaml")
    planned = project.planned(*options)
    assert len(planned) == 16
    assert planned == set(project.pointers(*options))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("release: x\nsources: y\n", "sources: Extra inputs"),
        ("release: x\nrelease: y\n", "'release' a second time"),
        (BOMB, "aliases written out"),
        ("release: x\nsource: nowhere\n", "those of the embedded pair"),
        ("release: x\ndonor: nowhere\n", "donor: the checkpoint's folder is not there"),
        (
            "release: x\ndonor: resources/pico/pico-agent\n",
            "donor: the donor has no whole MTP head",
        ),
        ("release: x\nquantization: {calibration: {sets: [{samples: 97}]}}\n", "found:    96 rows"),
        (
            "release: x\nlaunches: [{name: pico, title: a, max_model_len: 2049}]\n",
            "max_model_len 2048 at most",
        ),
        ("release: x\nmeasurement: {prompts: nowhere}\n", "the data are not there"),
    ],
    ids=["key", "twice", "bomb", "pico's", "donor", "head", "rows", "context", "data"],
)
def test_a_config_error_comes_alone(project: ProjectCopy, config: str, said: str) -> None:
    code, output = run(project, config, "-n")
    assert code == 1
    assert said in last_error(output)
    assert ".smk" not in output


def test_an_environment_that_is_not_installed_stops_a_run_and_is_told_of_a_plan(
    project: ProjectCopy,
) -> None:
    installed = project.folder / "envs/serve-cuda/.venv"
    installed.unlink(missing_ok=True)
    config = "release: x\nserving: {environment: serve-cuda}\n"
    code, output = run(project, config, "-n")
    assert code == 0
    assert output.count("warning: the environment serve-cuda is not installed") == 1
    code, output = run(project, config, "--cores", "1")
    assert code == 1
    error = last_error(output)
    assert error.startswith("error: the environment serve-cuda is not installed")
    assert "make SERVING=serve-cuda setup" in error
    assert not (project.folder / "results/x").exists()
    # What serves nothing needs none.
    code, output = run(project, config, "-n", "--until", "fetch_source")
    assert (code, "warning" in output) == (0, False)


def test_an_architecture_is_refused_while_it_is_planned(project: ProjectCopy) -> None:
    donor = project.folder / "other"
    donor.mkdir()
    (donor / "config.json").write_text('{"model_type": "bert"}')
    code, output = run(project, "release: x\ndonor: other\n", "-n")
    assert (code, "model_type 'bert'" in last_error(output)) == (1, True)


def test_names_with_braces_and_dollars_are_taken_as_they_are(project: ProjectCopy) -> None:
    name = "set {b} $(touch made)"
    resources = project.folder / "resources/pico"
    shutil.copytree(resources / "pico-base", project.folder / name)
    shutil.copy(resources / "calibration.jsonl", project.folder / f"{name}.jsonl")
    config = (
        f"release: braces\ndonor: '{name}'\nquality: {{base: '{name}', chats: '{name}.jsonl'}}\n"
        f"quantization: {{calibration: {{sets: [{{dataset: '{name}.jsonl'}}]}}}}\n"
        f"measurement: {{prompts: '{name}.jsonl'}}\nifeval: {{dataset: '{name}.jsonl'}}\n"
        f"store: ['{name}/store']\n"
    )
    assert run(project, config, "-n")[0] == 0
    code, output = run(project, config, "--cores", "2", "--until", "fetch_donor", "fetch_base")
    assert code == 0, output
    assert (Path(project.folder, "results/braces/fetch_donor") / "config.json").is_file()
