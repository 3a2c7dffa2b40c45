"""A model card as a page of a hub shows it: its Markdown as HTML, in the style of GitHub's pages.

The style is written from what those pages do with the parts that a card has: widths, margins,
tables and code that scroll by themselves, colours of light and dark.
"""

from pathlib import Path

from markdown_it import MarkdownIt

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --edge: #d1d9e0;
        --code: #f6f8fa; --row: #f6f8fa; --muted: #59636e; --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #f0f6fc; --edge: #3d444d;
          --code: #151b23; --row: #151b23; --muted: #9198a1; --link: #4493f8; }
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
tr:nth-child(2n) td { background: var(--row); }
code { font: 85% monospace; padding: .2em .4em; background: var(--code); border-radius: 6px; }
pre { padding: 16px; overflow: auto; font-size: 85%; line-height: 1.45; background: var(--code);
      border-radius: 6px; }
pre code { padding: 0; font-size: 100%; background: none; }
img { max-width: 100%; vertical-align: middle; }
summary { cursor: pointer; }
"""


def card_page(card: Path) -> str:
    """The page, which finds the card's pictures if it lies beside the card."""
    _, _, text = card.read_text().split("---\n", 2)
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Card</title>'
        f"<style>{_STYLE}</style></head><body><article>\n{reader.render(text)}"
        "</article></body></html>\n"
    )
