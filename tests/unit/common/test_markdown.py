"""Words from outside stay words, held against markdown-it-py and against HTML's own parser."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from common.markdown import code, items, table, word

NASTY = (
    "<script>alert(1)</script>",
    "a | b",
    "](https://example.org)",
    "![x](https://example.org/x.png)",
    "<https://example.org>",
    "https://example.org",
    "www.example.org",
    "WWW.example.org",
    "# heading",
    "`code` *strong* _em_ ~~gone~~",
    "&lt;b&gt;",
    "\\",
    "\\|",
    "two\nlines\r\n\n- and a list",
    "right\u202eto left\u200b",
)


class Seen(HTMLParser):
    """Tags and text of a document."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markdown: str) -> Seen:
    """As a generous viewer reads it: HTML allowed, tables, bare addresses and strikethrough."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Seen(reader.render(markdown))


def shown(text: str) -> str:
    """What a reader is to see of `text`."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


@pytest.mark.parametrize("nasty", NASTY)
def test_a_nasty_word_is_a_word_in_a_sentence_and_in_a_cell(nasty: str) -> None:
    listed = read(items([f"is {word(nasty)}."]))
    assert listed.tags == ["ul", "li"]
    assert listed.text.strip() == f"is {shown(nasty)}."
    cells = read(table(("a", "b"), [(word(nasty), "2"), ("3", word(nasty))]))
    assert cells.tags.count("td") == 4
    assert set(cells.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert cells.text.count(shown(nasty)) == 2


@given(st.text(max_size=40))
def test_any_word_is_shown_as_it_is(text: str) -> None:
    cells = read(table(("a",), [(f"x{word(text)}x",)]))
    assert set(cells.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert f"x{shown(text)}x" in cells.text


def test_code_is_for_plain_names() -> None:
    assert code("model-card.json") == "`model-card.json`"
    with pytest.raises(ValueError, match="plain name"):
        code("a`b")
