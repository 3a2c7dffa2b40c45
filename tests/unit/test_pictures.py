import re
from itertools import product
from typing import Any
from xml.etree import ElementTree

import pytest

import measured
from browser import Browser, open_browser, page_colours
from scion.config import Config
from scion.report.measurements import picture_names
from scion.report.pictures.card_pictures import pictures
from scion.report.pictures.style import PALETTE, Picture

NAMES = tuple(picture_names(Config()))
SVG = "{http://www.w3.org/2000/svg}"
TEXT, MARKS = ("ink", "muted"), ("zero", "one", "two", "three", "four")


def odd_results() -> dict[str, Any]:
    """Everything is absent that may be."""
    return {
        "measure_serving": measured.serving(drafted=(0,), parallel=(1,), repeats=5),
        "run_agent_tasks": measured.agent_tasks(),
        "evaluate_quality": measured.quality(base=False, loads=False, documents=1),
    }


@pytest.fixture(scope="module")
def drawn() -> list[Picture]:
    return pictures(measured.results())


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes(svg: str) -> dict[str, dict[str, str]]:
    """The colours by variable, as the picture's own style sheet sets them."""
    light, dark = re.findall(r":root \{ (.*?) \}", svg)
    return {
        name: dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", text))
        for name, text in (("light", light), ("dark", dark))
    }


def test_all_results_give_all_pictures(drawn: list[Picture]) -> None:
    assert tuple(picture.name for picture in drawn) == NAMES


def test_the_same_results_give_the_same_bytes(drawn: list[Picture]) -> None:
    assert [picture.svg for picture in pictures(measured.results())] == [
        picture.svg for picture in drawn
    ]
    for picture in drawn:
        assert "dc:date" not in picture.svg


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_with_the_panel_is_enough(drawn: list[Picture], theme: str) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for picture in drawn:
        colours = themes(picture.svg)[theme]
        for role in TEXT:
            assert contrast(colours[role], colours["panel"]) >= 4.5, (theme, role)
        for role in MARKS:
            assert contrast(colours[role], colours["panel"]) >= 3, (theme, role)


def test_every_colour_is_a_variable_of_the_style_sheet(drawn: list[Picture]) -> None:
    for picture in drawn:
        used = set(re.findall(r"var\(--(\w+)\)", picture.svg))
        assert used <= set(themes(picture.svg)["light"]) == set(themes(picture.svg)["dark"])
        drawing = picture.svg.split("</style>", 1)[1]
        # What is black is clipped or has nothing to paint; no colour of the palette is left over.
        assert not [colour.mark for colour in PALETTE.values() if colour.mark in drawing]
        painted = re.findall(r"(?:fill|stroke): (#\w+)", drawing)
        assert painted == []


def test_text_has_a_generic_font_and_marks_have_shapes(drawn: list[Picture]) -> None:
    for picture in drawn:
        assert set(re.findall(r"font-family: ([^;\"]*)", picture.svg)) == {"sans-serif"}
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", picture.svg)]
        assert min(sizes) >= 8


def test_pictures_are_told_to_those_who_do_not_see_them(drawn: list[Picture]) -> None:
    for picture in drawn:
        root = ElementTree.fromstring(picture.svg)
        assert root.get("role") == "img"
        labels = [root.find(f"{SVG}title"), root.find(f"{SVG}desc")]
        assert [label.get("id") for label in labels if label is not None] == str(
            root.get("aria-labelledby")
        ).split()
        assert [label.text for label in labels if label is not None] == [picture.title, picture.alt]
        assert len(picture.alt) < 1200
    assert "MTP n=3: 88.8 % (83.3–92.6), 79.0 %" in drawn[0].alt


def test_numbers_of_the_results_stand_in_the_pictures(drawn: list[Picture]) -> None:
    written = {
        picture.name: {"".join(label.itertext()) for label in texts(picture.svg)}
        for picture in drawn
    }
    for run in measured.serving()["runs"]:
        for speed in run["speed"]:
            if speed["ratio_to_baseline"]:
                assert f"{speed['ratio_to_baseline']['value']:.2f}×" in written["speed"]
        for row in run["acceptance"] or ():
            if row["set"] == "all":
                shown = {f"{100 * estimate['value']:.1f}" for estimate in row["per_position"]}
                assert shown <= written["acceptance"]
    for model in measured.quality()["models"]:
        for part in (model["parts"] or {}).values():
            assert f"{part['perplexity']['value']:.3f}" in written["quality"]
    assert {"prompt strict", "simple python", "Parallel tool calls"} <= written["scores"]


def texts(svg: str) -> list[Any]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}text"))


def test_what_is_absent_is_left_out() -> None:
    drawn = pictures(odd_results())
    assert [picture.name for picture in drawn] == ["speed", "quality", "scores"]
    assert "base model" not in drawn[1].svg
    assert "IFEval" not in drawn[2].svg
    assert "ratio" not in drawn[0].svg


@pytest.fixture(scope="module")
def browser() -> Any:
    with open_browser() as opened:
        yield opened


# Texts of one picture that cover each other, or leave the panel, as the browser laid them out.
OVERLAPS = """
(() => {
  const boxes = [...document.querySelectorAll("text")].filter((one) => one.textContent.trim())
    .map((one) => [one.textContent, one.getBoundingClientRect()]);
  const page = document.documentElement.getBoundingClientRect();
  const out = boxes.filter(([, box]) => box.left < page.left + 4 || box.right > page.right - 4
    || box.top < page.top + 4 || box.bottom > page.bottom - 4).map(([text]) => text);
  const slack = 2;
  for (const [place, [text, a]] of boxes.entries())
    for (const [other, b] of boxes.slice(place + 1))
      if (a.left + slack < b.right && b.left + slack < a.right && a.top + slack < b.bottom
          && b.top + slack < a.bottom) out.push(text + " / " + other);
  return out;
})()
"""


@pytest.mark.parametrize(
    ("content", "scheme"),
    list(product(["all", "odd", "two launches", "many drafts"], ["light", "dark"])),
)
def test_a_browser_shows_them_without_overlaps(
    browser: Browser, tmp_path: Any, content: str, scheme: Any
) -> None:
    results = odd_results() if content == "odd" else measured.results()
    if content == "two launches":
        results["measure_serving"] = measured.serving(launches=("production", "small_context"))
    if content == "many drafts":
        results["measure_serving"] = measured.serving(drafted=(0, 1, 3, 8))
    for picture in pictures(results):
        (tmp_path / "picture.svg").write_text(picture.svg)
        page = browser.open((tmp_path / "picture.svg").as_uri(), scheme=scheme)
        assert page.evaluate(OVERLAPS) == [], picture.name

        (tmp_path / "page.html").write_text(
            '<body style="background: #808080"><img src="picture.svg">'
        )
        page = browser.open((tmp_path / "page.html").as_uri(), scheme=scheme)
        shape = "document.images[0].naturalWidth, document.images[0].naturalHeight"
        width, height = page.evaluate(f"[{shape}]")
        assert width == 864
        # Within an <img> the picture follows the reader's scheme by itself.
        panel = PALETTE["panel"].light if scheme == "light" else PALETTE["panel"].dark
        colours = page_colours(page.screenshot())
        assert colours[panel] > 0.5 * width * height
        assert len(colours) > 10
