"""The reviewer pack as one page that needs nothing else: no script, nothing fetched, also for paper."""

from collections.abc import Iterable, Sequence
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

from common.page_parts import document

STYLE = """
:root { --ink: #1f2328; --soft: #59626b; --line: #d7dbdf; --red: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 58rem; padding: 2.5rem 2rem 3rem; color: var(--ink);
  background: #fff; font: 15px/1.5 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial,
  "Liberation Sans", sans-serif; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1rem; }
h1 { font-size: 1.9rem; font-weight: 600; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.45rem; font-weight: 600; margin: 3rem 0 .8rem; padding-bottom: .25rem;
  border-bottom: 2px solid var(--line); }
h3 { font-size: 1.12rem; font-weight: 600; margin: 1.8rem 0 .4rem; }
h4 { font-size: 1rem; font-weight: 600; margin: 1.3rem 0 .3rem; }
h5 { font-size: .95rem; margin: 1rem 0 .3rem; }
h2, h3, h4, h5 { break-after: avoid; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 48rem; }
ul { margin: .3rem 0; padding-left: 1.2rem; max-width: 48rem; }
li { margin: .15rem 0; }
p, li, td { overflow-wrap: break-word; }
nav ul { list-style: none; padding-left: 1.2rem; }
nav > ul { padding-left: 0; columns: 2; column-gap: 2rem; max-width: none; }
nav > ul > li { break-inside: avoid; margin-bottom: .5rem; font-weight: 600; }
nav li li { font-weight: 400; font-size: .9rem; margin: 0; }
nav a { color: inherit; text-decoration: none; border-bottom: 1px solid var(--line); }
.warning, blockquote { border: 2px solid var(--red); border-left-width: .6rem; background: #fdf1f0;
  color: #7a150f; padding: .3rem 1rem; margin: 1.2rem 0; break-inside: avoid; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; margin: .6rem 0 1rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
tr { break-inside: avoid; }
thead { display: table-header-group; }
code, pre { font-family: "Source Code Pro", Consolas, "DejaVu Sans Mono", monospace; font-size: .85em; }
code { overflow-wrap: anywhere; }
td code { font-size: .8em; }
td:first-child code { font-size: .95em; white-space: nowrap; }
pre { background: #f6f7f8; padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .6rem;
  color: var(--soft); font-size: .85rem; }
@page { margin: 16mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  h2 { break-before: page; margin-top: 0; }
  nav + h2 { break-before: auto; }
  table { font-size: 8.5pt; }
  th, td { padding: .2rem .4rem .2rem 0; }
}
"""


def page(
    title: str,
    lead: str,
    warnings: Iterable[str],
    sections: Sequence[str],
    texts: Iterable[tuple[str, str]],
    footer: str,
) -> str:
    """The document: Markdown `sections` in order behind a table of contents, then `texts` word for word.

    Plain text is escaped here. `texts` are (name, text). In a section pictures, links and HTML are left
    as they are written, so that a word from outside cannot become one.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(
        ["image", "link", "autolink", "html_inline", "html_block", "entity", "reference"]
    )
    contents: list[tuple[int, str, str]] = []
    bodies = [
        reader.renderer.render(
            _placed(reader.parse(text), f"s{number}", contents), reader.options, {}
        )
        for number, text in enumerate(sections, start=1)
    ]
    appended = "".join(f"<h3>{escape(name)}</h3><pre>{escape(text)}</pre>" for name, text in texts)
    if appended:
        contents.append((2, "texts", "Appendix: protocols in full"))
        bodies.append(f'<h2 id="texts">Appendix: protocols in full</h2>{appended}')
    boxes = "".join(f'<div class="warning"><p>{escape(text)}</p></div>' for text in warnings)
    inner = (
        f"<header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>\n{boxes}"
        f"<nav>{_contents(contents)}</nav>\n{''.join(bodies)}<footer>{escape(footer)}</footer>"
    )
    return document(escape(title), STYLE, inner, pictures=False)


def _placed(tokens: list[Token], section: str, contents: list[tuple[int, str, str]]) -> list[Token]:
    """Headings one level down, since the page has a title above them, each with an id in `contents`."""
    for index, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            level = min(int(token.tag[1]) + 1, 5)
            token.tag = f"h{level}"
            if token.type == "heading_open":
                token.attrSet("id", f"{section}-{index}")
                contents.append((level, f"{section}-{index}", tokens[index + 1].content))
    return tokens


def _contents(headings: Iterable[tuple[int, str, str]]) -> str:
    """The two upper levels as a nested list."""
    lists: list[tuple[str, list[str]]] = []
    for level, target, text in headings:
        link = f'<a href="#{target}">{escape(text)}</a>'
        if level == 2:
            lists.append((link, []))
        elif level == 3 and lists:
            lists[-1][1].append(f"<li>{link}</li>")
    entries = []
    for link, below in lists:
        inner = f"<ul>{''.join(below)}</ul>" if below else ""
        entries.append(f"<li>{link}{inner}</li>")
    return f"<ul>{''.join(entries)}</ul>"
