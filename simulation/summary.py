"""What `intramural-simulate` prints at the end of a run: who got what, at which cost."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.table import Table

from server.facts import TOO_WIDE, UNREADABLE, ReportFacts
from server.page import heading
from server.sections import part_of
from simulation.live import shown

SAID = {"concordance_uno": "Uno's concordance index", "integrated_brier": "integrated Brier score"}


def print_summary(console: Console, folder: Path, facts: ReportFacts) -> None:
    """What a person takes away: who got what, what it cost, and where the files are."""
    judged, part = facts.figure is not None, part_of(facts.protocol)
    title = f"{heading(facts.figure or 'result')} for each hospital"
    table = Table(title=title, title_justify="left", show_edge=False)
    figures = ["own (95 %)", "alone", "alone, pooled"] if judged else []
    for column in ("hospital", "patients", *figures, "epsilon"):
        side: JustifyMethod = "left" if column == "hospital" else "right"
        table.add_column(column, justify=side, no_wrap=True)
    for hospital in facts.hospitals:
        said = (
            with_interval(hospital.discrimination, hospital.interval, part.undefined),
            shown(hospital.local_only),
            shown(hospital.local_only_pooled),
        )
        table.add_row(
            hospital.name,
            str(hospital.nominal_patients),
            *(said if judged else ()),
            shown(hospital.epsilon, 2),
        )
    console.print(table)
    for sentence in judgement(facts):
        console.print(sentence, highlight=False, soft_wrap=True)
    for sentence in facts.small_cohorts():
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(privacy_sentence(facts), highlight=False, soft_wrap=True)
    site = folder / "hospitals" / facts.hospitals[0].name / "site.toml"
    console.print(
        f"results: {folder}/report.html, model_card.md, privacy-statement.md, model.safetensors, "
        f"summary.json\n"
        f"next: intramural-client verify --site {shlex.quote(str(site))} "
        f"(do the hospital's books agree?)"
        + (
            f", intramural-client predict {shlex.quote(str(folder))} IMAGES"
            if part.predicts
            else ""
        ),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def judgement(facts: ReportFacts) -> Iterator[str]:
    """What the model is worth on the validation patients of all hospitals; nothing where none judge it."""
    part, pooled = part_of(facts.protocol), facts.pooled
    if facts.figure is None or pooled is None:
        return
    exact = with_interval(pooled.discrimination, pooled.interval, part.undefined)
    more = "".join(
        f", {SAID.get(name, name.replace('_', ' '))} {shown(value)}"
        for name, value in part.exact_numbers(facts.protocol, pooled.scores).items()
        if not isinstance(value, list)
    )
    yield (
        f"pooled {facts.figure} {exact}{more}, before training {shown(facts.zero_shot)}; validation split "
        f"by patient, {part.exact(facts.protocol)}"
    )
    read_as, vague = UNREADABLE, ""
    if facts.released is not None:
        found = facts.released.discrimination
        read_as = with_interval(found.value, found.interval, UNREADABLE)
        low, high = found.interval
        vague = " (too noisy to say much)" if high - low > TOO_WIDE else ""
    yield (
        f"released by the hospitals: {facts.figure} {read_as}{vague}; {part.released}, interval for noise "
        f"and patients"
    )
    alone = [h.local_only_pooled for h in facts.hospitals if h.local_only_pooled]
    if alone:
        one_place = facts.pooled_baseline
        yield (
            f"on the pooled validation patients: federated {shown(pooled.discrimination)}, "
            f"mean of the hospitals alone {shown(sum(alone) / len(alone))}"
        ) + (f", all patients in one place {shown(one_place.discrimination)}" if one_place else "")


def with_interval(value: float | None, interval: tuple[float, float] | None, undefined: str) -> str:
    """ "0.912 (0.871–0.946)", or in words why it is `undefined`."""
    if value is None:
        return undefined
    return shown(value) + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")


def privacy_sentence(facts: ReportFacts) -> str:
    """The guarantee of this run in one sentence, or that there is none."""
    if not facts.private:
        return "NO differential privacy in this run (mechanism = none)."
    spent = [h for h in facts.hospitals if h.epsilon is not None]
    if not spent:
        return "Nothing was spent."
    worst = max(spent, key=lambda h: h.epsilon or 0.0)
    sentence = (
        f"privacy: epsilon {worst.epsilon:.2f} at delta {worst.delta:g} at most, unit: patient, "
        f"add/remove one, the larger of {worst.accountant} and {worst.second_accountant}, noise "
        f"added at each hospital"
    )
    if facts.figure is not None:
        sentence += "; validation patients have an account of their own"
    if facts.noise_seeded:
        sentence += ". TEST MODE: the noise came from a known seed, so nothing is private"
    return sentence
