"""The report's clinical part: the pooled model as a clinician reads it, and what joining gained."""

from collections.abc import Sequence
from html import escape

from common.clinical.calibration_page import Words
from common.clinical.delong import Difference
from common.clinical.evaluation import Evaluation
from common.clinical.page import headline, sections
from common.page_parts import absent, count, figure, table
from server.clinical_plots import gain_svg
from server.gain import Gain, Pooled
from server.page import auroc, listed

FEW = "fewer than two patients of a class"


def clinical(found: Evaluation, classes: tuple[str, str]) -> str:
    """The federated model on all validation patients; `classes` as in the protocol."""
    words = Words.of(found, classes)
    parts = [f"<p>{headline(found, words)}</p>"]
    parts += [f"<h3>{title}</h3>{text}" for title, text in sections(found, words)]
    return "".join(parts)


def gained(gains: Sequence[Gain], pooled: Pooled | None, *, private: bool) -> str:
    """Table and picture of the differences, and in words who gained beyond chance."""
    if not gains:
        return f"<p>{absent('No hospital trained alone in this run.')}</p>"
    own = {} if pooled is None else pooled.own
    rows = [
        [
            escape(gain.hospital),
            f"{gain.patients:,}",
            auroc(gain.federated),
            auroc(gain.alone),
            *([] if pooled is None else [auroc(own.get(gain.hospital))]),
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
        *([] if pooled is None else ["AUROC, all in one place"]),
        "Gain on its own patients",
        "Gain on everybody's patients",
    ]
    svg = gain_svg(gains, pooled)
    caption = _caption(gains, pooled)
    picture = "" if svg is None else figure(svg, "Gain in AUROC by hospital", caption)
    text = f"<p>{_who(gains)}</p>" + ("" if pooled is None else _one_place(pooled, private))
    return f"{text}{picture}" + table(head, rows, "numbers")


def _caption(gains: Sequence[Gain], pooled: Pooled | None) -> str:
    last = "" if pooled is None else "; in the last row less that of all patients in one place"
    return (
        f"AUROC of the federated model less that of the hospital's own{last}, on the same images; bars: "
        f"95 %, paired (DeLong, with the patient as the unit). Of {count(len(gains), 'hospital')} one may "
        "lie apart from zero by chance. A bar that leaves the picture goes on."
    )


def _one_place(pooled: Pooled, private: bool) -> str:
    """What the walls cost: the federated model against one of all patients together."""
    guarantee = (
        "under the same protocol, with the same ε for each patient and the noise added once instead of "
        "in each hospital"
        if private
        else "under the same protocol"
    )
    less = pooled.difference
    said = "" if less is None else f"; federated less that is {_difference(less)}"
    chance = ""
    if less is not None and less.interval is not None:
        low, high = less.interval
        chance = " The difference is beyond chance (95 %)."
        if low <= 0 <= high:
            chance = " These patients cannot tell that from no difference."
    return (
        f"<p>One model of all hospitals' patients in one place, {guarantee}, reaches "
        f"{auroc(pooled.auroc, pooled.interval)} on everybody's patients{said}.{chance} Only a rehearsal "
        "can know: it holds all the data.</p>"
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
        said.append(
            f"neither better nor worse, as far as so few patients can tell, for {count(rest, 'hospital')}"
        )
    return f"On a hospital's own patients the federated model is {'; '.join(said)}."


def _difference(found: Difference | None) -> str:
    if found is None:
        return absent(FEW)
    value = f"{found.value:+.3f}"
    if found.interval is not None:
        low, high = found.interval
        value += f' <span class="interval">({low:+.3f} to {high:+.3f})</span>'
    return value.replace("-", "−")
