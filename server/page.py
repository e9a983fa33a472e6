"""HTML of the report: the page with its style, tables and figures, and how a number is worded.

Every function returns ready HTML; what comes from outside is escaped here or by the caller as its
docstring says.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

from common.histogram import Estimate, Interval
from common.page_parts import absent, document

# Okabe-Ito vermillion for warnings and bluish green, sky blue for marks; all marks differ in shape.
STYLE = """
:root { --ink: #1f2328; --soft: #5b636b; --line: #d7dbdf; --pale: #f6f7f8; --red: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 2rem 3rem; color: var(--ink);
  background: #fff; font: 15px/1.5 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial,
  "Liberation Sans", sans-serif; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1rem; }
.kind { color: var(--soft); letter-spacing: .06em; font-size: .85rem; margin: 0; }
h1 { font-size: 1.9rem; font-weight: 600; line-height: 1.2; margin: .1rem 0 .5rem; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 2.2rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); break-after: avoid; }
p { margin: .5rem 0; max-width: 48rem; }
.lead { font-size: 1.05rem; margin: 0; }
.warning { border: 2px solid var(--red); border-left-width: .6rem; background: #fdf1f0;
  color: #7a150f; padding: .8rem 1rem; margin: 1.2rem 0 0; break-inside: avoid; }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .7rem; }
.tile { border: 1px solid var(--line); border-radius: 3px; padding: .6rem .8rem;
  break-inside: avoid; }
.tile .value { font-size: 1.6rem; font-weight: 600; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tile .value .absent { font-size: 1rem; font-weight: 400; }
.label, .note, figcaption, .caption { color: var(--soft); font-size: .85rem; }
.tile .label { color: var(--ink); }
figure { margin: .6rem 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .6rem 0;
  font-variant-numeric: tabular-nums; break-inside: avoid; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom;
  line-height: 1.25; }
tbody th { font-weight: 600; overflow-wrap: anywhere; }
.numbers th:not(:first-child), .numbers td { text-align: right; }
.numbers tbody th { min-width: 5.5rem; }
.numbers .interval { display: block; }
.numbers .whole { white-space: nowrap; }
.numbers .absent { display: inline-block; min-width: 5.5rem; }
.words tbody th { width: 13rem; overflow-wrap: normal; }
.words td { overflow-wrap: anywhere; }
.figures tbody th { white-space: nowrap; }
.rounds { width: auto; }
.rounds th:not(:first-child), .rounds td { text-align: center; padding: .25rem .3rem;
  min-width: 1.9rem; }
.settings { columns: 2; column-gap: 2.5rem; }
.settings table { margin: 0; break-inside: auto; }
.settings tr { break-inside: avoid; }
.settings tbody th { width: 64%; font-weight: 400; color: var(--soft); }
.interval { color: var(--soft); font-size: .85em; white-space: nowrap; }
.absent { color: var(--soft); font-style: italic; font-size: .92em; }
.refused { color: #fff; background: var(--red); font-weight: 600; padding: 0 .35em;
  border-radius: 2px; }
.missing { border: 1px solid var(--ink); padding: 0 .35em; border-radius: 2px; }
.answered { color: #00684b; }
.flagged { color: #b4530a; }
code { font-family: "Source Code Pro", Consolas, "DejaVu Sans Mono", monospace; font-size: .88em;
  overflow-wrap: anywhere; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .6rem;
  color: var(--soft); font-size: .85rem; }
@page { margin: 16mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  h2 { margin-top: 1.2rem; }
  figure img { max-height: 6.6cm; }
  table { font-size: 8.5pt; }
  th, td { padding: .2rem .3rem; }
}
"""


def page(title: str, kind: str, lead: str, warnings: str, body: str, footer: str) -> str:
    """The whole document; `title` and `kind` are escaped here, the rest is ready HTML."""
    inner = (
        f'<header><p class="kind">{escape(kind)}</p><h1>{escape(title)}</h1>'
        f'<p class="lead">{lead}</p></header>{warnings}<main>{body}</main><footer>{footer}</footer>'
    )
    return document(escape(title), STYLE, inner)


def shown(value: float | None, interval: Interval | None = None, why: str = "not defined") -> str:
    """A value in 0..1 with its interval, or in words `why` there is none."""
    if value is None:
        return absent(why)
    if interval is None:
        return f"{value:.3f}"
    return f'{value:.3f} <span class="interval">({interval[0]:.3f}–{interval[1]:.3f})</span>'


def estimate(found: Estimate | None, why: str) -> str:
    """The same for a figure that carries its interval."""
    return absent(why) if found is None else shown(found.value, found.interval)


def heading(figure: str) -> str:
    """The name of a figure at the beginning of a sentence: "AUROC", "Concordance index"."""
    return figure[:1].upper() + figure[1:]


def epsilon(value: float) -> str:
    """Two decimals, rounded up: a guarantee must not look stronger than it is."""
    return f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def small(value: float) -> str:
    """Delta as it is written in a protocol: "1e-5", not "1e-05"."""
    return f"{value:g}".replace("e-0", "e-")


def span(values: Sequence[float], form: Callable[[float], str], apart: str = "") -> str:
    """The one figure of all, or "least to largest" and then what `apart` says; not empty."""
    low, high = form(min(values)), form(max(values))
    return low if low == high else f"{low} to {high}{apart}"


def sigma(value: float) -> str:
    """A noise multiplier or standard deviation, three digits."""
    return f"{value:.3g}"


def difference(joined: float | None, alone: float | None) -> str:
    """Signed difference of two values in 0..1; a dash when one is not known."""
    if joined is None or alone is None:
        return "–"
    return f"{joined - alone:+.3f}".replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """ "north", "north and east" or "north, east and south" of a non-empty list; escaped here."""
    names = [escape(word) for word in words]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def runs(numbers: Sequence[int]) -> str:
    """Rising round numbers with runs joined: [1, 2, 3, 7] is "1–3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in spans)
