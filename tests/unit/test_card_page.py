"""The card as a hub shows it, looked at in a real browser: how long it is, and what breaks.

Two cards of the embedded pair: one with measurements as they look, one with those of a real run.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import measured
from browser import Browser, Page, Scheme, open_browser, page_colours
from card_text import breakable
from conversion import Conversion
from scion.report.card.page import card_page
from sealed import rendered

RECORDS = Path(__file__).parents[2] / "docs/measurements/pico-cpu"
# Of the page of a release that is small enough to be looked at whole.
MOST_PIXELS = 5000
WIDE, NARROW = 980, 390
OPEN = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
# Texts of intervals on a page, and those whose characters lie on more than one line.
INTERVALS = r"""(() => {
  const number = "[+\u2212-]?\\d[\\d,.]*", space = "[ \u00a0]", joiner = "\u2060?";
  const interval = new RegExp(
    `${number}(?:${space}?%|×)?${space}\\(${number}` +
    `(?:${joiner}–${joiner}|${space}to${space})${number}\\)`, "gu");
  const all = [], broken = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    for (const found of texts.currentNode.data.matchAll(interval)) {
      const range = document.createRange();
      range.setStart(texts.currentNode, found.index);
      range.setEnd(texts.currentNode, found.index + found[0].length);
      const lines = new Set([...range.getClientRects()].map((each) => Math.round(each.bottom)));
      all.push(found[0]);
      if (lines.size > 1) broken.push(found[0]);
    }
  }
  return [all.length, broken];
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["as they look", "of a real run"])
def page(
    request: pytest.FixtureRequest, conversion: Conversion, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The page beside its pictures."""
    folder = tmp_path_factory.mktemp("page")
    content = measured.results()
    if request.param == "of a real run":
        # Pictures were asked about of another release, which keeps its tower.
        names = {s: name for s, name in measured.FILES.items() if s != "evaluate_images"}
        content = {
            stage: json.loads((RECORDS / name).read_text())
            for stage, name in names.items()
            # The run was not judged.
            if stage != "judge_release"
        }
    card, _ = rendered(conversion, folder, content)
    shutil.copytree(card.folder, folder / "shown")
    path = folder / "shown/card.html"
    path.write_text(card_page(folder / "shown/README.md"))
    return path


def opened(browser: Browser, page: Path, *, width: int = WIDE, scheme: Scheme = "light") -> Page:
    shown = browser.open(page.as_uri(), width=width, scheme=scheme)
    shown.wait_for("[...document.images].every((each) => each.complete && each.naturalWidth)")
    return shown


def test_a_browser_shows_no_more_than_people_read(browser: Browser, page: Path) -> None:
    height = opened(browser, page).evaluate("document.documentElement.scrollHeight")
    assert 2000 < height <= MOST_PIXELS


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_browser_breaks_no_interval(browser: Browser, page: Path, width: int) -> None:
    shown = opened(browser, page, width=width)
    shown.evaluate(OPEN)
    count, broken = shown.evaluate(INTERVALS)
    assert broken == []
    assert count > 100


def test_a_browser_would_break_them_if_they_were_not_joined(browser: Browser, page: Path) -> None:
    plain = page.with_name("plain.html")
    plain.write_text(breakable(page.read_text()))
    shown = opened(browser, plain, width=NARROW)
    shown.evaluate(OPEN)
    count, broken = shown.evaluate(INTERVALS)
    assert 0 < len(broken) < count


@pytest.mark.parametrize("opening", [False, True])
@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_browser_shows_all_of_it_in_its_width(
    browser: Browser, page: Path, width: int, opening: bool
) -> None:
    shown = opened(browser, page, width=width)
    if opening:
        shown.evaluate(OPEN)
    # Tables and commands that are wider scroll by themselves; the first table is not.
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    first = "document.querySelector('table')"
    assert shown.evaluate(f"{first}.scrollWidth <= {first}.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_pictures_in_the_page_s_colours(
    browser: Browser, page: Path, scheme: Scheme
) -> None:
    shown = opened(browser, page, scheme=scheme)
    alternatives = shown.evaluate("[...document.images].map((each) => each.alt)")
    assert len(alternatives) == 4
    assert all(any(map(str.isdigit, words)) for words in alternatives)
    shown.evaluate("document.images[0].scrollIntoView()")
    ((colour, _),) = page_colours(shown.screenshot()).most_common(1)
    assert (int(colour[1:3], 16) > 128) == (scheme == "light")


def test_a_browser_shows_lines_launch_and_results_before_any_digest(
    browser: Browser, page: Path
) -> None:
    shown = opened(browser, page)
    assert shown.evaluate("document.querySelectorAll('table')[0].tBodies[0].rows.length") == 8
    text: str = shown.evaluate("document.body.innerText")
    places = [text.index(words) for words in ("licence", "--speculative-config", "Results")]
    assert places == sorted(places)
    # Those are folded.
    assert "sha256" not in text
    shown.evaluate(OPEN)
    assert shown.evaluate("document.body.innerText").count("sha256:") > 10
