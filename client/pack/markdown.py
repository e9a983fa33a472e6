"""The little Markdown that the reviewer pack is written in.

Words that came from outside (a class name in a protocol, a hospital in the coordinator's file) stand
in one line, among printable characters and without brackets that mean anything, so that they can be no
heading, no row, no hidden text, and no picture that a viewer would fetch.
"""

from collections.abc import Iterable, Sequence

_BRACKETS = str.maketrans({c: f"\\{c}" for c in "<>[]"})


def plain(text: object) -> str:
    """`text` on one line; a character that is not printable, one that turns text round included, is '?'."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in line).translate(_BRACKETS)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with `header`; a bar in a cell ends no cell."""
    cells = [[plain(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def items(sentences: Iterable[str]) -> str:
    return "".join(f"- {plain(sentence)}\n" for sentence in sentences)


def utc(time: str) -> str:
    """An entry's time (ISO 8601, UTC) as people write it, to the second."""
    return time[:19].replace("T", " ")
