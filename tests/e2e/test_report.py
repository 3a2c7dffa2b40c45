"""`snakemake --report`: the pictures of a release, as a browser shows them.

The conversion stages, the card and the seal run for real, by the project's own rules; what a server
would have measured is put in their place. Nothing may be downloaded.
"""

import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

import measured
from browser import Browser, Page, Scheme, open_browser, page_colours
from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.making import Output
from scion.artifacts.release_check import check_release
from scion.artifacts.store.store import Store
from scion.config import Config
from scion.report.measurements import picture_names
from scion.report.pictures.style import PALETTE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NAMES = picture_names(Config())
RESULTS = Path("results/pico-agent-nvfp4-text-mtp")


def run(project: ProjectCopy, *options: str) -> str:
    done = project.run("snakemake", "--cores", "all", *options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    made = ProjectCopy.make(tmp_path_factory.mktemp("project"))
    run(made, "--until", "verify_release", "fetch_base")
    release = Artifact.open(made.folder / RESULTS / "graft_mtp")
    store = Store.open([str(made.folder / "results/.store")])
    outputs = {stage: Output(pointer, store) for stage, pointer in made.pointers().items()}
    measured.artifacts(measured.results(), release=release, folder=made.folder, outputs=outputs)
    assert made.planned() == {"render_card", "seal_release"}
    run(made)
    return made


@pytest.fixture(scope="module")
def report(project: ProjectCopy) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        # Nobody listens there: a report that wants to download something fails.
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        run(project, "--report", "report.zip")
    with zipfile.ZipFile(project.folder / "report.zip") as archive:
        archive.extractall(project.folder)
    return project.folder / "report/report.html"


@pytest.fixture(scope="module")
def browser() -> Any:
    with open_browser() as opened:
        yield opened


def click(page: Page, text: str) -> None:
    """Click on the first link of that text."""
    found = f"[...document.querySelectorAll('a')].find((one) => one.innerText.trim() == '{text}')"
    page.wait_for(found)
    page.evaluate(f"{found}.click()")


def buttons(name: str) -> str:
    """JavaScript for the buttons of a result's row: show, and tell about it."""
    row = f"[...document.querySelectorAll('tr')].find((one) => one.innerText.trim() == '{name}')"
    return f"({row})?.querySelectorAll('a')"


def show(browser: Browser, report: Path, name: str, scheme: Scheme) -> Page:
    page = browser.open(report.as_uri(), scheme=scheme, width=1500, height=1000)
    click(page, "Pictures")
    page.wait_for(f"{buttons(name)}?.length == 2")
    page.evaluate(f"{buttons(name)}[0].click()")
    page.wait_for("document.querySelector('img[src^=\"data/\"]')?.complete")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_a_browser_shows_each_picture(
    browser: Browser, report: Path, name: str, scheme: Scheme
) -> None:
    page = show(browser, report, name, scheme)
    image = "document.querySelector('img[src^=\"data/\"]')"
    width, height = page.evaluate(f"[{image}.naturalWidth, {image}.naturalHeight]")
    assert width == 864
    assert height > 300
    panel, ink = (getattr(PALETTE[role], scheme) for role in ("panel", "ink"))
    colours = page_colours(page.screenshot())
    assert colours[panel] > 0.5 * width * height
    assert colours[ink] > 100


def test_a_picture_is_explained(browser: Browser, report: Path) -> None:
    page = show(browser, report, "speed", "light")
    page.evaluate(f"{buttons('speed')}[1].click()")
    page.wait_for("document.body.innerText.includes('own benchmark')")


def test_the_page_asks_nobody_for_anything(browser: Browser, report: Path) -> None:
    page = show(browser, report, "acceptance", "light")
    asked = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert [address for address in asked if not address.startswith(("data:", "file:"))] == []
    links = page.evaluate("[...document.querySelectorAll('script[src], link[href]')].length")
    assert links == 0


def test_the_card_is_in_the_report(browser: Browser, report: Path) -> None:
    page = browser.open(report.as_uri())
    click(page, "Model card")
    page.wait_for(f"{buttons('card')}?.length == 2")
    page.evaluate(f"{buttons('card')}[0].click()")
    page.wait_for("document.querySelector('iframe[src^=\"data/\"]')")
    frame = "document.querySelector('iframe')"
    # It has the report's width beside the list.
    assert page.evaluate(f"{frame}.clientWidth") > 500
    card = (report.parent.parent / RESULTS / "render_card/README.md").read_text()
    shown = browser.open(page.evaluate(f"{frame}.src"), width=1100)
    assert shown.evaluate("document.title") == "Pico-Agent-NVFP4-TEXT-MTP"
    text = shown.evaluate("document.body.innerText")
    # Neither the block that the hub reads, nor any mark of Markdown.
    assert "library_name" in card
    assert not [mark for mark in ("library_name", "| ---", "](", "**") if mark in text]
    tables = shown.evaluate("document.querySelectorAll('table').length")
    assert tables == len(re.findall(r"^\|[-|: ]+\|$", card, re.MULTILINE)) > 5
    pictures = "[...document.querySelectorAll('img')].map((one) => one.naturalWidth)"
    assert shown.evaluate(pictures) == [864] * len(NAMES)
    asked = shown.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert [address for address in asked if not address.startswith("data:")] == []
    targets = set(shown.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)"))
    assert set(re.findall(r"\]\(#([^)]+)\)", card)) <= targets


def test_a_report_changes_nothing_that_is_planned(project: ProjectCopy, report: Path) -> None:
    assert report.exists()
    assert project.planned() == set()


def test_a_card_that_is_there_already_stays_with_its_pictures(project: ProjectCopy) -> None:
    card = Artifact.open(project.folder / RESULTS / "render_card")
    run(project, "--forcerun", "render_card", "--until", "render_card")
    assert Artifact.open(project.folder / RESULTS / "render_card").root == card.root
    assert card.check() == []


def test_a_removed_picture_is_copied_again(project: ProjectCopy) -> None:
    (copy,) = (project.folder / RESULTS / ".pointers").glob("render_card-*/pictures/speed.svg")
    copy.unlink()
    # Nothing depends on a picture by itself, so it takes a word.
    run(project, "--forcerun", "render_card")
    assert copy.is_file()
    assert project.planned() == set()


def test_a_card_of_changed_code_says_so_and_is_rendered_again_after_the_commit(
    project: ProjectCopy,
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def made_by() -> dict[str, Any]:
        sealed = Artifact.open(project.folder / RESULTS / "release")
        assert check_release(FolderTree(sealed.folder))[1] == []
        return sealed.facts["made_by"]

    assert made_by()["commit"] is None
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "All of it")
    template = project.folder / "workflow/templates/card.md.jinja"
    template.write_text(template.read_text() + "\nThanks for reading.\n")
    run(project)
    first = git("rev-parse", "HEAD")
    assert (made_by()["commit"], made_by()["modified"]) == (first, True)
    card = project.folder / RESULTS / "release/README.md"
    assert f"commit `{first}` with changes that are not committed" in card.read_text()

    git("commit", "--all", "--quiet", "--message", "Thanks")
    assert project.planned() == {"render_card", "seal_release"}
    run(project)
    second = git("rev-parse", "HEAD")
    assert (made_by()["commit"], made_by()["modified"]) == (second, False)
    assert "that are not committed" not in card.read_text()
    # Neither another commit of the same code nor a change of a comment makes anything anew.
    stage = project.folder / "workflow/scion/stages/fix_keys.py"
    stage.write_text(stage.read_text() + "# A comment.\n")
    git("commit", "--all", "--quiet", "--message", "A comment")
    stage.write_text(stage.read_text() + "# Another one.\n")
    assert project.planned() == set()
