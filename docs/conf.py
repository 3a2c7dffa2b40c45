"""The documentation as a site: what `make docs` gives Sphinx.

The pages are the repository's own Markdown, as GitHub shows it: the source folder is the
repository, so a link means the same in both, whether it leads to a page, a heading, a record or a
piece of code. `docs/index.md` lists the pages in plain Markdown; its lists become the site's
navigation here. What is not listed there, and each link that leads nowhere, fails the build.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INDEX = "docs/index"

project = "Scion"
author = "Scion's contributors"
extensions = ["myst_parser"]
root_doc = INDEX
# Of the rest, environments and results would take minutes to walk through.
_WITH_PAGES = {"docs", "bench", "resources", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"}
exclude_patterns = [entry.name for entry in ROOT.iterdir() if entry.name not in _WITH_PAGES]
exclude_patterns += ["resources/pico/pico-*", "resources/pico/training"]

# Headings are anchors, as on GitHub.
myst_heading_anchors = 4
myst_enable_extensions = ["alert", "html_image"]
suppress_warnings = ["misc.highlighting_failure"]
highlight_language = "text"
smartquotes = False

html_theme = "furo"
html_title = "Scion"
html_extra_path = ["site_root"]
html_show_copyright = False
html_show_sphinx = False
html_use_index = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}


def setup(app: Any) -> None:
    """Let the navigation be read off the index, and keep intervals whole."""
    app.connect("source-read", _add_navigation)
    app.connect("source-read", _keep_intervals)


def _add_navigation(_app: Any, page: str, source: list[str]) -> None:
    """Give the index a hidden table of contents for each of its sections, of the pages it lists."""
    if page != INDEX:
        return
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        pages = re.findall(r"^- \[([^\]]+)\]\(([^)#]+\.md)\)", section, flags=re.MULTILINE)
        source[0] += _contents(title, pages)


def _contents(title: str, pages: list[tuple[str, str]]) -> str:
    entries = [f"{name} <{path}>" for name, path in pages]
    return "\n".join([f"\n\n```{{toctree}}\n:caption: {title}\n:hidden:\n", *entries, "```"])


def _keep_intervals(_app: Any, _page: str, source: list[str]) -> None:
    """Let no cell of a table break within an interval, such as `(3.14–3.63)`."""
    source[0] = re.sub(r"(?m)^\|.*", lambda row: row[0].replace("–", "–\N{WORD JOINER}"), source[0])
