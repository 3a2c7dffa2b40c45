"""The card as a page of `snakemake --report`; a browser looks at it in e2e/test_report.py."""

from pathlib import Path

import pytest

from scion.report.card.page import card_page

CARD = """\
---
license: apache-2.0
---

# A <card>

See [the proof](#how-it-was-made--proof).

![One](pictures/one.svg) ![Badge](https://example.org/badge.svg)

| a | b |
|---|---|
| 1 | `x` |

## How it was made: — proof
"""


@pytest.fixture
def page(tmp_path: Path) -> str:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/one.svg").write_text("<svg/>")
    (tmp_path / "README.md").write_text(CARD)
    return card_page(tmp_path / "README.md")


def test_the_page_holds_the_card_and_its_pictures(page: str) -> None:
    assert "<title>A &lt;card&gt;</title>" in page
    assert "license" not in page
    assert '<img src="data:image/svg+xml;base64,PHN2Zy8+" alt="One"' in page
    assert "<td>1</td>" in page


def test_a_picture_of_an_address_is_told_not_asked_for(page: str) -> None:
    assert "example.org" not in page
    assert "Badge" in page


def test_links_within_the_card_lead_to_its_headings(page: str) -> None:
    assert '<a href="#how-it-was-made--proof">' in page
    assert 'id="how-it-was-made--proof"' in page


def test_a_picture_that_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("![One](pictures/one.svg)")
    with pytest.raises(FileNotFoundError):
        card_page(tmp_path / "README.md")
