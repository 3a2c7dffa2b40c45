"""The card as a page that a browser shows: its Markdown as HTML, with its pictures in it.

For `snakemake --report`; what is published is the Markdown. The style follows what hubs do with the
parts that a card has: widths, margins, tables and code that scroll by themselves, light and dark.
"""

import base64
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = "card.html"
"""The page's name beside the card."""

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --edge: #d1d9e0;
        --code: #f6f8fa; --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #f0f6fc; --edge: #3d444d; --code: #151b23; --link: #4493f8; }
}
body { margin: 0; background: var(--page); color: var(--ink); }
article { box-sizing: border-box; max-width: 980px; margin: 0 auto; padding: 45px;
          font: 16px/1.5 "Noto Sans", Helvetica, Arial, sans-serif; overflow-wrap: break-word; }
@media (max-width: 767px) { article { padding: 15px; } }
a { color: var(--link); }
h1, h2, h3 { margin: 24px 0 16px; line-height: 1.25; font-weight: 600; }
h1, h2 { padding-bottom: .3em; border-bottom: 1px solid var(--edge); }
h1 { font-size: 2em; } h2 { font-size: 1.5em; } h3 { font-size: 1.25em; }
p, ul, table, pre, details { margin: 0 0 16px; }
ul { padding-left: 2em; } li + li { margin-top: .25em; }
table { display: block; width: max-content; max-width: 100%; overflow: auto;
        border-collapse: collapse; }
th, td { padding: 6px 13px; border: 1px solid var(--edge); }
tr:nth-child(2n) td { background: var(--code); }
code { font: 85% monospace; padding: .2em .4em; background: var(--code); border-radius: 6px; }
pre { padding: 16px; overflow: auto; font-size: 85%; line-height: 1.45; background: var(--code);
      border-radius: 6px; }
pre code { padding: 0; font-size: 100%; background: none; }
img { max-width: 100%; vertical-align: middle; }
summary { cursor: pointer; }
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<article>
{body}</article>
</body>
</html>
"""
_METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def card_page(card: Path) -> str:
    """A page that needs no other file.

    Args:
        card: The card's Markdown; pictures that it names lie beside it.

    Raises:
        OSError: The card or a picture can't be read.
    """
    # Late: the workflow's rules only need the page's name.
    from markdown_it import MarkdownIt

    text = _METADATA.sub("", card.read_text())
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    reader.add_render_rule("image", _with_pictures(card.parent))
    reader.add_render_rule("heading_open", _with_anchor)
    title = _TITLE.search(text)
    return _PAGE.format(
        title=html.escape(title[1] if title else card.name),
        style=_STYLE,
        body=reader.render(text),
    )


def _with_pictures(folder: Path) -> Callable[..., str]:
    """A rule that puts pictures into the page; those of an address are left out, not asked for."""

    def image(renderer: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
        token, source = tokens[place], str(tokens[place].attrs["src"])
        if "://" in source:
            return html.escape(token.content)
        content = base64.b64encode((folder / source).read_bytes()).decode()
        token.attrs["src"] = f"data:image/svg+xml;base64,{content}"
        return renderer.image(tokens, place, options, env)

    return image


def _with_anchor(renderer: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
    """A rule that names headings as hubs do, for links within the card."""
    words = re.sub(r"[^\w\- ]", "", tokens[place + 1].content.lower())
    tokens[place].attrs["id"] = words.replace(" ", "-")
    return renderer.renderToken(tokens, place, options, env)
