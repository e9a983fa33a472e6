"""The report's clinical part: the pooled model as a clinician reads it, and what joining gained."""

from collections.abc import Sequence
from html import escape

from common.clinical.calibration_page import Words
from common.clinical.delong import Difference
from common.clinical.evaluation import Evaluation
from common.clinical.page import headline, sections
from common.page_parts import absent, figure, table
from server.clinical_plots import gain_svg
from server.gain import Gain
from server.page import auroc, count, listed

FEW = "fewer than two patients of a class"


def clinical(found: Evaluation, classes: tuple[str, str]) -> str:
    """The federated model on all validation patients; `classes` as in the protocol."""
    words = Words.of(found, classes)
    parts = [f"<p>{headline(found, words)}</p>"]
    parts += [f"<h3>{title}</h3>{text}" for title, text in sections(found, words)]
    return "".join(parts)


def gained(gains: Sequence[Gain]) -> str:
    """Table and picture of the differences, and in words who gained beyond chance."""
    if not gains:
        return f"<p>{absent('No hospital trained alone in this run.')}</p>"
    rows = [
        [
            escape(gain.hospital),
            f"{gain.patients:,}",
            auroc(gain.federated),
            auroc(gain.alone),
            _difference(gain.own),
            _difference(gain.everybody),
        ]
        for gain in gains
    ]
    head = [
        "Hospital",
        "Validation patients",
        "AUROC, federated",
        "AUROC, alone",
        "Gain on its own patients",
        "Gain on everybody's patients",
    ]
    svg = gain_svg(gains)
    picture = "" if svg is None else figure(svg, "Gain in AUROC by hospital", _caption(gains))
    return f"<p>{_who(gains)}</p>{picture}" + table(head, rows, "numbers")


def _caption(gains: Sequence[Gain]) -> str:
    return (
        "AUROC of the federated model less that of the hospital's own, on the same images; bars: 95 %, "
        f"paired (DeLong, with the patient as the unit). Of {count(len(gains), 'hospital')} one may lie "
        "apart from zero by chance."
    )


def _who(gains: Sequence[Gain]) -> str:
    """ "On its own patients the federated model is better than its own beyond chance for north."."""
    better = [g.hospital for g in gains if g.own and g.own.interval and g.own.interval[0] > 0]
    worse = [g.hospital for g in gains if g.own and g.own.interval and g.own.interval[1] < 0]
    said = []
    if better:
        said.append(f"better than what it trained alone for {listed(better)}")
    if worse:
        said.append(f"worse for {listed(worse)}")
    rest = len(gains) - len(better) - len(worse)
    if rest:
        said.append(f"neither, as far as so few patients can tell, for {count(rest, 'hospital')}")
    return f"On a hospital's own patients the federated model is {'; '.join(said)}."


def _difference(found: Difference | None) -> str:
    if found is None:
        return absent(FEW)
    value = f"{found.value:+.3f}"
    if found.interval is not None:
        low, high = found.interval
        value += f' <span class="interval">({low:+.3f} to {high:+.3f})</span>'
    return value.replace("-", "−")
