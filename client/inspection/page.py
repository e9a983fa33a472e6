"""The data report as one page that needs nothing else: no script, nothing fetched, also for paper."""

from collections.abc import Iterable
from html import escape

from client.inspection.verdict import Verdict
from client.pack.page import STYLE
from common.drawing import BLUE, VERMILLION
from common.page_parts import document
from common.protocol import StudyProtocol

_MARKS = {"fit": "✔", "fit with warnings": "▲", "unfit": "✖", "warning": "▲"}
_OWN_STYLE = f"""
h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
h3 {{ font-size: 1rem; margin: 1.2rem 0 .2rem; }}
figure {{ margin: .8rem 0; break-inside: avoid; }}
figure img {{ display: block; max-width: 100%; }}
figcaption, .caption {{ color: var(--soft); font-size: .85rem; max-width: 48rem; margin-top: .3rem; }}
td, th {{ padding-right: .8rem; }}
tbody th {{ border-bottom: 1px solid var(--line); vertical-align: top; font-weight: 400; }}
.numbers, .bars {{ width: auto; min-width: 60%; }}
.numbers td, .numbers thead th:not(:first-child), .bars td:nth-child(2), .bars th:nth-child(2)
  {{ text-align: right; padding-left: .8rem; }}
.counts tbody tr:last-child > * {{ border-top: 1.5px solid var(--ink); }}
.bars tbody th {{ min-width: 5rem; }}
.bars td:nth-child(n + 3) {{ min-width: 7rem; white-space: nowrap; }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 0 2rem; }}
.facts section {{ break-inside: avoid; }}
.facts section:first-child {{ grid-column: 1 / -1; }}
.bar {{ display: inline-block; height: .7em; border: 1px solid; vertical-align: baseline; }}
.neg {{ background: {BLUE}; border-color: {BLUE}; }}
.pos {{ background: repeating-linear-gradient(135deg, {VERMILLION} 0 2px, #fff 2px 4px);
  border-color: {VERMILLION}; }}
.aside tbody th, .limits td:nth-child(2) {{ min-width: 13rem; }}
.absent {{ color: var(--soft); font-style: italic; }}
.verdict {{ border: 2px solid var(--tone); border-left-width: .6rem; padding: .4rem 1rem; margin: 1.2rem 0;
  break-inside: avoid; }}
.verdict p {{ font-size: 1.25rem; font-weight: 600; color: var(--tone); margin: .2rem 0; }}
.verdict ul {{ list-style: none; padding: 0; max-width: none; }}
.verdict li {{ margin: .35rem 0; padding-left: 1.5rem; text-indent: -1.5rem; }}
.verdict b {{ display: inline-block; width: 1.5rem; text-indent: 0; }}
@media print {{ h2 {{ break-before: auto; margin-top: 1.4rem; }} }}
"""
_TONES = {"fit": BLUE, "fit with warnings": VERMILLION, "unfit": "#b3261e"}


def page(
    hospital: str,
    protocol: StudyProtocol,
    lead: str,
    verdict: Verdict,
    sections: Iterable[tuple[str, str]],
) -> str:
    """The document; `sections` are (title, ready HTML)."""
    title = escape(f"Data report of {hospital}")
    body = "".join(f"<section><h2>{name}</h2>{text}</section>" for name, text in sections)
    inner = (
        f"<header><h1>{title}</h1><p>For the study “{escape(protocol.study)}”. {escape(lead)}</p>"
        "</header>\n"
        '<div class="warning"><p><strong>This page stays in the hospital.</strong> It shows images of '
        "patients and exact figures, under no privacy guarantee; nothing of it was sent, and "
        "nothing of it should be. Patients are called by a local id, which means nothing elsewhere; "
        "reports on the same state folder have the same ids. Files are named under “Set aside” only.</p>"
        f"</div>{_verdict(verdict)}{body}"
        f"<footer>Protocol digest {protocol.digest}. Research use, not a medical device.</footer>"
    )
    return document(title, STYLE + _OWN_STYLE, inner)


def _verdict(verdict: Verdict) -> str:
    reasons = "".join(
        f"<li><b>{_MARKS[reason.severity]}</b>{escape(reason.said)}</li>"
        for reason in verdict.reasons
    )
    return (
        f'<div class="verdict" style="--tone: {_TONES[verdict.word]}">'
        f"<p>{_MARKS[verdict.word]} {verdict.word.capitalize()}</p>"
        f"<ul>{reasons or '<li>Nothing was found that stands against it.</li>'}</ul></div>"
    )
