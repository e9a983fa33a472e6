"""Pieces of a page that needs nothing else: tables and pictures, no script, nothing fetched."""

import base64
from collections.abc import Sequence
from html import escape

_NOTHING_FETCHED = "default-src 'none'; style-src 'unsafe-inline'"
_OWN_PICTURES = "; img-src data:"


def document(title: str, style: str, body: str, *, pictures: bool = True) -> str:
    """A whole page of ready HTML. A browser fetches nothing for it, whatever stands in `body`.

    Without `pictures` it shows not even those that are within the page.
    """
    policy = _NOTHING_FETCHED + (_OWN_PICTURES if pictures else "")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>\n<body>{body}</body></html>\n"
    )


def count(number: int, noun: str) -> str:
    """ "1 round", "2 rounds"."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """ "rounds"; "series" is its own."""
    return noun if noun.endswith("s") else f"{noun}s"


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
