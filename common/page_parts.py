"""Pieces of a page that needs nothing else: tables and pictures, no script, nothing fetched."""

import base64
from collections.abc import Sequence
from html import escape


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """A table of ready cells, of class `kind`; the first cell of a row is its heading."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    top = f"<thead><tr>{titles}</tr></thead>" if head else ""
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<table class="{kind}">{top}<tbody>{lines}</tbody></table>'


def figure(svg: str, alternative: str, caption: str) -> str:
    """A picture within the page; `alternative` is escaped here, `caption` is ready HTML.

    As an image of its own, since the ids inside two SVGs would clash in one document.
    """
    picture = base64.b64encode(svg.encode()).decode()
    return (
        f'<figure><img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{picture}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def absent(words: str) -> str:
    """What stands in the place of a number that is not known."""
    return f'<span class="absent">{escape(words)}</span>'


def with_interval(value: float, interval: tuple[float, float] | None, digits: int = 2) -> str:
    """A value with its 95 % interval where there is one."""
    if interval is None:
        return signed(value, digits)
    low, high = interval
    to = "–" if low >= 0 else " to "
    return (
        f"{signed(value, digits)} "
        f'<span class="interval">({signed(low, digits)}{to}{signed(high, digits)})</span>'
    )


def signed(value: float, digits: int) -> str:
    """A number with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")
