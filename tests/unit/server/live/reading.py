"""What a browser takes from the live page: its words, its tables, and all that it could fetch or run."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page taken apart. AssertionError for a tag that is closed in the wrong place.

    `tables` holds the text of each table's cells by row, `reaches` (tag, attribute, value) of whatever
    makes a browser fetch or go somewhere, `styles` the text of style elements.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.reaches: list[tuple[str, str, str]] = []
        self.styles: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.refresh: str | None = None
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self._words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        given = {name: value or "" for name, value in attrs}
        for name in (
            "src",
            "href",
            "action",
            "srcset",
            "data",
            "poster",
            "formaction",
            "xlink:href",
        ):
            if name in given:
                self.reaches.append((tag, name, given[name]))
        if given.get("http-equiv") == "refresh":
            self.refresh = given["content"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.styles.append(data)
            return
        self._words.append(data)
        if any(tag in ("td", "th") for tag in self._open):
            self.tables[-1][-1][-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The rows of all tables whose first heading is `first`, joined by the row's own heading."""
        joined: dict[str, list[str]] = {}
        for rows in self.tables:
            if rows[0][0] == first:
                for head, *cells in rows:
                    joined.setdefault(head, [head]).extend(cell.strip() for cell in cells)
        return list(joined.values())
