"""A summary in the report: what was released of each column, how noisy it is, and what to make of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, hypot, log10, sqrt
from typing import cast

from common.page_parts import absent, signed, table
from common.tabular.schema import Column
from common.tasks.summary.study import NUMBERS, SummaryStudy
from server.facts import ReportFacts
from server.page import listed
from server.sections.part import Part

LEAST_SHARE = 0.05  # of patients with a value: below, dividing by it says nothing


@dataclass(frozen=True)
class Figure:
    """One row: a figure, None where too few have a value, and the standard deviation of the noise in it."""

    name: str
    unit: str
    value: float | None
    error: float


SHARE = "share of patients"  # the unit of a category, and of what is missing


class Summary(Part):
    """The model is the result: nothing is judged."""

    def sections(self, facts: ReportFacts) -> dict[str, str]:
        protocol = cast("SummaryStudy", facts.protocol)
        level = protocol.model.level
        title = "Mean of each column" if level is None else f"Quantile of each column, at {level:g}"
        if NUMBERS not in facts.result:
            return {title: f"<p>{absent('Not known: the run has not come to its end')}.</p>"}
        numbers = [float(number) for number in facts.result[NUMBERS].ravel()]
        said = [_table(protocol, numbers, facts), _notes(protocol, facts)]
        return {title: "".join(said), **_for_the_next_study(protocol, numbers, facts)}


PART = Summary()


def noise_of(facts: ReportFacts) -> float:
    """Standard deviation of the noise in each of the model's numbers, in half-widths of the range.

    The hospitals' noise is sigma_i C / n_i a step, and the mean over them weighs n_i. A mean forgets
    all but its last step, where cohorts are as large as agreed; a quantile keeps at most all of them.
    """
    protocol, taking_part = cast("SummaryStudy", facts.protocol), facts.rounds[-1].answered
    sigmas = [h.noise_multiplier or 0.0 for h in facts.hospitals if h.name in taking_part]
    patients = sum(h.nominal_patients for h in protocol.hospitals if h.name in taking_part)
    step = protocol.privacy.max_grad_norm * sqrt(sum(sigma**2 for sigma in sigmas)) / patients
    if protocol.model.level is None:
        return step
    return protocol.training.learning_rate * sqrt(protocol.rounds) * step


def figures(columns: Sequence[Column], numbers: Sequence[float], noise: float) -> Iterator[Figure]:
    """Of the model's D `numbers`, each with `noise`: every number's figure, every category's share."""
    at = 0
    for column in columns:
        own = numbers[at : at + len(column.features)]
        at += len(own)
        indicated = column.missing == "indicator"
        there = 1 - own[-1] if indicated else 1.0
        if column.categories is None:
            # What is missing counts as 0 in the mean of all: the mean of the others is larger.
            center, scale = column.mapping
            known = there > LEAST_SHARE
            mean = own[0] / there if known else 0.0
            error = noise / there * (hypot(1, mean) if indicated else 1.0) if known else noise
            value = center + scale * mean if known else None
            yield Figure(column.name, column.unit, value, scale * error)
        else:
            shares = own[: len(column.categories) - 1]
            first = there - sum(shares)
            terms = len(shares) + indicated
            yield Figure(
                f"{column.name} = {column.categories[0]}", SHARE, first, sqrt(terms) * noise
            )
            for category, share in zip(column.categories[1:], shares, strict=True):
                yield Figure(f"{column.name} = {category}", SHARE, share, noise)
        if indicated:
            yield Figure(f"{column.name} missing", SHARE, own[-1], noise)


def _table(protocol: SummaryStudy, numbers: Sequence[float], facts: ReportFacts) -> str:
    rows = []
    for one in figures(protocol.records.columns, numbers, noise_of(facts)):
        decimals = _decimals(one.error)
        value = absent("too few values") if one.value is None else signed(one.value, decimals)
        error = f"{one.error:.{decimals}f}" if facts.private else "no noise"
        rows.append([escape(one.name), value, error, escape(one.unit) or "–"])
    name = "Mean" if protocol.model.level is None else "Quantile"
    return table(["Column", name, "Standard error of the noise", "Unit"], rows, "numbers")


def _decimals(error: float) -> int:
    """So many that two digits of the error are seen; four where there is none."""
    return max(0, 1 - floor(log10(error))) if error else 4


def _notes(protocol: SummaryStudy, facts: ReportFacts) -> str:
    taking_part = facts.rounds[-1].answered
    said = [
        f"Of the training patients of {listed(taking_part)}, each patient once, several records of one as "
        f"their mean. The error is that of the noise alone, from public constants: other patients would move "
        f"a figure too."
    ]
    if protocol.model.level is None:
        said.append(
            f"Where a hospital has a tenth more or fewer patients than agreed, "
            f"{100 * 0.1**protocol.rounds:g} % of the way from the middle of the range is left."
        )
    else:
        said.append(
            "The error is at most that, since later steps take some of the earlier noise back; whether the "
            "steps were enough to arrive is not known."
        )
    return f'<p class="caption">{" ".join(said)}</p>'


def _for_the_next_study(
    protocol: SummaryStudy, numbers: Sequence[float], facts: ReportFacts
) -> dict[str, str]:
    """The columns with their centers as a protocol has them; nothing for a quantile beside the middle."""
    if protocol.model.level not in (None, 0.5):
        return {}
    title = "For the protocol of the next study"
    if not facts.private or facts.noise_seeded:
        why = "these figures are as good as exact, and no constants for a study on patients"
        return {title: f"<p>Without noise that nobody knows, {why}.</p>"}
    found = {f.name: f for f in figures(protocol.records.columns, numbers, noise_of(facts))}
    columns = [
        _centered(column, found[column.name]) if column.kind == "number" else column
        for column in protocol.records.columns
    ]
    text = "\n\n".join(map(_as_toml, columns))
    return {
        title: "<p>A number becomes (value − center) / scale, with half the width of its range as the scale "
        "unless one is stated. These centers were released and charged: they are public now.</p>"
        f"<pre>{escape(text)}</pre>"
    }


def _as_toml(column: Column) -> str:
    """The table of a column in a protocol; a number, a text or a list of them is the same in JSON."""
    keys = column.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True, mode="json")
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join(["[[records.columns]]", *lines])


def _centered(column: Column, found: Figure) -> Column:
    """`column` with its figure as the center, no finer than its noise and within its range."""
    if found.value is None or column.range is None:
        return column
    low, high = column.range
    center = round(min(max(found.value, low), high), _decimals(found.error))
    return column.model_copy(update={"center": center})
