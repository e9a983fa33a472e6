"""What `intramural-simulate` prints at the end of a run: who got what, at which cost."""

import shlex
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.table import Table

from server.facts import UNREADABLE, ReportFacts
from simulation.live import shown

TOO_WIDE = 0.5  # width of a released interval that still says something


def print_summary(console: Console, folder: Path, facts: ReportFacts) -> None:
    """What a person takes away: who got what, what it cost, and where the files are."""
    pooled = facts.pooled
    table = Table(title="Result for each hospital", title_justify="left", show_edge=False)
    for column in ("hospital", "patients", "AUROC (95 %)", "alone", "alone, pooled", "epsilon"):
        side: JustifyMethod = "left" if column == "hospital" else "right"
        table.add_column(column, justify=side, no_wrap=True)
    for hospital in facts.hospitals:
        table.add_row(
            hospital.name,
            str(hospital.nominal_patients),
            with_interval(hospital.auroc, hospital.interval),
            shown(hospital.local_only_auroc),
            shown(hospital.local_only_pooled_auroc),
            shown(hospital.epsilon, 2),
        )
    console.print(table)
    if pooled is not None:
        console.print(
            f"pooled AUROC {with_interval(pooled.auroc, pooled.interval)}, average precision "
            f"{shown(pooled.average_precision)}, before training {shown(facts.zero_shot_auroc)}; "
            f"validation split by patient, every image counts, interval by DeLong's method",
            highlight=False,
            soft_wrap=True,
        )
        released = facts.released
        read_as = (
            with_interval(released.auroc.value, released.auroc.interval) if released else UNREADABLE
        )
        low, high = released.auroc.interval if released else (0.0, 0.0)
        vague = " (too noisy to say much)" if high - low > TOO_WIDE else ""
        console.print(
            f"released by the hospitals: AUROC {read_as}{vague}; every patient counts once in each "
            f"class, interval for noise and patients",
            highlight=False,
            soft_wrap=True,
        )
    alone = [h.local_only_pooled_auroc for h in facts.hospitals if h.local_only_pooled_auroc]
    if alone and pooled is not None:
        one_place = facts.pooled_baseline
        console.print(
            f"on the pooled validation patients: federated {shown(pooled.auroc)}, "
            f"mean of the hospitals alone {shown(sum(alone) / len(alone))}"
            + (f", all patients in one place {shown(one_place.auroc)}" if one_place else ""),
            highlight=False,
            soft_wrap=True,
        )
    for sentence in facts.small_cohorts():
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(privacy_sentence(facts), highlight=False, soft_wrap=True)
    site = folder / "hospitals" / facts.hospitals[0].name / "site.toml"
    console.print(
        f"results: {folder}/report.html, model_card.md, privacy-statement.md, model.safetensors, "
        f"summary.json\n"
        f"next: intramural-client verify --site {shlex.quote(str(site))} "
        f"(do the hospital's books agree?), intramural-client predict {shlex.quote(str(folder))} IMAGES",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """ "0.912 (0.871–0.946)", or words where it is not defined."""
    if value is None:
        return "one class only"
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
        f"added at each hospital; validation patients have an account of their own"
    )
    if facts.noise_seeded:
        sentence += ". TEST MODE: the noise came from a known seed, so nothing is private"
    return sentence
