"""The little Markdown that documents are written in, safe against words from outside.

A word that came from outside (a class name in a protocol, a hospital in somebody's file) stands in one
line, among printable characters and without a character that means anything in Markdown or HTML: it can
be no heading, no row, no hidden text, no link, and no picture that a viewer would fetch.
"""

import re
from collections.abc import Iterable, Sequence

# ASCII punctuation that CommonMark or GitHub's tables, links and strikethrough give a meaning within
# a line; all of it may be escaped (CommonMark 0.31, section 2.4).
_MEANS_SOMETHING = re.compile(r"[\\`*_{}\[\]<>()#|~&!@]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def word(text: object) -> str:
    """`text` from outside for use in a sentence; a character that is not printable is '?'."""
    line = " ".join(str(text).split())
    return _MEANS_SOMETHING.sub(r"\\\g<0>", "".join(c if c.isprintable() else "?" for c in line))


def code(text: str) -> str:
    """A digest, key or file name of our own in fixed width; ValueError for what could end it."""
    if not re.fullmatch(r"[\w.,:/+ -]+", text, re.ASCII):
        raise ValueError(f"expected a plain name to set as code and found {text!r}")
    return f"`{text}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of ready cells: what is from outside went through `word`, and nothing holds a bare bar."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def items(sentences: Iterable[str]) -> str:
    """A list of ready sentences."""
    return "".join(f"- {sentence}\n" for sentence in sentences)
