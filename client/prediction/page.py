"""predictions.html: each finding with its score, what that means, and its overlay. Nothing fetched."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from client.data import SetAside
from client.pack.page import STYLE
from client.prediction.overlay import NOTE
from client.prediction.results import Prediction
from client.prediction.words import percent
from common.model_card import Judged
from common.page_parts import absent, count, document, table, with_interval
from common.tasks.nodule_classification.card import ModelCard

PAGE = "predictions.html"
MOST_PICTURES = 100  # in the page, which a browser must hold; every one lies beside it as a file
MOST_ROWS = 2000

_OWN_STYLE = """
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.finding { display: grid; grid-template-columns: 1fr 27rem; gap: 1.6rem; padding: 1.1rem 0;
  border-top: 1px solid var(--line); break-inside: avoid; }
.finding h3 { margin: 0 0 .3rem; font-size: 1rem; }
.number { font-size: 1.7rem; font-weight: 600; line-height: 1.1; margin: .2rem 0; }
.number small { font-size: .85rem; font-weight: 400; color: var(--soft); }
.mark { font-weight: 600; margin: .1rem 0 .4rem; }
.place, figcaption { color: var(--soft); font-size: .82rem; overflow-wrap: anywhere; }
figure { margin: 0; }
figure img { display: block; width: 100%; }
.bar { display: block; width: 100%; max-width: 20rem; height: 22px; }
.absent { color: var(--soft); font-style: italic; }
.interval { color: var(--soft); font-size: .88em; white-space: nowrap; }
.facts th[scope="row"], .aside th[scope="row"] { border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
.aside th[scope="row"] { white-space: normal; overflow-wrap: anywhere; width: 40%; }
@media print { h2 { break-before: auto; margin-top: 1.2rem; }
  .finding { grid-template-columns: 1fr 8.4cm; padding: .5rem 0; } }
@media (max-width: 50rem) { .finding { grid-template-columns: 1fr; } }
"""


def page(
    found: Sequence[Prediction],
    pictures: Mapping[str, bytes],
    set_aside: Sequence[SetAside],
    card: ModelCard,
) -> str:
    """The whole page; `pictures` are PNGs by the name of the overlay. No script, also for paper."""
    title = f"What the model of “{escape(card.study)}” says of {count(len(found), 'finding')}"
    shown = "".join(
        _finding(number, one, pictures, card) for number, one in enumerate(found[:MOST_ROWS], 1)
    )
    inner = (
        f"<header><h1>{title}</h1></header>\n"
        '<div class="warning"><p><strong>Research use, not a medical device.</strong> No diagnosis and no '
        "treatment may rest on it. For this hospital alone: files of patients are named here, and "
        "nothing of this page should leave.</p></div>"
        f"<section><h2>The model</h2>{_model(card)}</section>"
        f"<section><h2>Findings</h2>{_notes(found)}{shown}</section>"
        f"{_aside(set_aside)}"
        f"<footer>Weights (SHA-256) {card.weights}<br>Protocol digest {card.protocol}</footer>"
    )
    return document(title, STYLE + _OWN_STYLE, inner)


def _finding(number: int, one: Prediction, pictures: Mapping[str, bytes], card: ModelCard) -> str:
    meaning, positive = one.meaning, escape(card.images.classes[1])
    if meaning.probability is None:
        value = f"{one.score:.2f} <small>score of “{positive}”, not a probability</small>"
    else:
        value = (
            f"{percent(meaning.probability)} <small>probability of “{positive}” · score "
            f"{one.score:.2f}</small>"
        )
    mark = {
        None: "",
        True: '<p class="mark">▲ at or above the operating point</p>',
        False: '<p class="mark">▽ below the operating point</p>',
    }[meaning.positive]
    place = "" if one.mm is None else f" · x, y, z = {', '.join(f'{v:.1f}' for v in one.mm)} mm"
    of = "" if one.of == one.what else f" · series {escape(one.of)}"
    return (
        f'<div class="finding"><div><h3>{number}. {escape(one.what.rpartition("/")[2])}</h3>'
        f'<p class="place">{escape(one.what)}{of}{place}</p>'
        f'<p class="number">{value}</p>{mark}{_bar(one, card)}<p>{escape(meaning.words)}</p></div>'
        f"{_picture(one, pictures)}</div>"
    )


def _bar(one: Prediction, card: ModelCard) -> str:
    """The score on a line from 0 to 1, with the operating point as a notch."""
    point = None if card.judged is None else card.judged.operating_point
    at = 10 + 280 * one.score
    notch = (
        ""
        if point is None
        else (
            f'<path d="M{10 + 280 * point.threshold:.1f} 3v16" stroke="#222222" stroke-width="1.5" '
            f'stroke-dasharray="3 2"/>'
        )
    )
    return (
        f'<svg class="bar" viewBox="0 0 300 22" role="img" aria-label="score {one.score:.2f} of 1">'
        f'<path d="M10 11h280" stroke="#d7dbdf" stroke-width="4" stroke-linecap="round"/>{notch}'
        f'<circle cx="{at:.1f}" cy="11" r="5.5" fill="#0072B2"/></svg>'
    )


def _picture(one: Prediction, pictures: Mapping[str, bytes]) -> str:
    if one.overlay is None:
        return ""
    if one.overlay not in pictures:
        return f"<p>{absent(f'The picture is {one.overlay} beside this page.')}</p>"
    data = base64.b64encode(pictures[one.overlay]).decode()
    return (
        f'<figure><img alt="the image, and where the score changes" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(one.caption or '')}</figcaption></figure>"
    )


def _notes(found: Sequence[Prediction]) -> str:
    drawn = f"<p>{NOTE}</p>" if found[0].overlay else ""
    if len(found) <= MOST_ROWS:
        return drawn
    return f"{drawn}<p>The first {MOST_ROWS:,} stand here; all are in predictions.csv.</p>"


def _model(card: ModelCard) -> str:
    origin = "a rehearsal on one machine" if card.rehearsal else "a study between hospitals"
    rounds, hospitals = count(card.rounds, "round"), count(len(card.hospitals), "hospital")
    negative, positive = (escape(name) for name in card.images.classes)
    rows = [
        ["Trained in", f"{rounds} of {origin}, {hospitals}"],
        ["Tells", f"“{positive}” from “{negative}”"],
        *_judged(card.judged),
    ]
    return table((), rows, "facts") + _doubt(card.judged)


def _judged(judged: Judged | None) -> list[list[str]]:
    if judged is None:
        return [["Judged", absent("by nobody: its numbers are scores, and not probabilities")]]
    point = judged.operating_point
    figures = {"AUROC": judged.auroc}
    if point is not None:
        figures |= {
            f"Sensitivity at {point.threshold:.2f}": point.sensitivity,
            f"Specificity at {point.threshold:.2f}": point.specificity,
        }
    calibration = (
        absent("not known: its numbers are scores, and not probabilities")
        if judged.temperature is None
        else f"for where {percent(judged.prevalence)} of findings are positive; where fewer are, fewer "
        f"of those called positive are right"
    )
    return [
        *([name, with_interval(one.value, (one.low, one.high))] for name, one in figures.items()),
        ["Probabilities", calibration],
    ]


def _doubt(judged: Judged | None) -> str:
    if judged is None or judged.auroc.low > 0.5:
        return ""
    return (
        '<div class="warning"><p>The interval of the AUROC reaches 0.5: the study cannot tell this model '
        "from a coin.</p></div>"
    )


def _aside(set_aside: Sequence[SetAside]) -> str:
    if not set_aside:
        return ""
    rows = [[escape(one.what), escape(one.reason)] for one in set_aside[:MOST_ROWS]]
    return (
        f"<section><h2>Set aside</h2><p>{count(len(set_aside), 'thing')} could not be "
        f"used or made.</p>{table(('What', 'Why'), rows, 'aside')}</section>"
    )
