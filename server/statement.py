"""What the report says about privacy: warnings, the claim and everything that it does not cover.

The parts of a claim follow PRIVACY: unit, neighbouring relation, epsilon at delta, mechanism,
accountant, scope, releases, noise source, what is public by assumption, what is not covered.
"""

from collections.abc import Sequence
from html import escape

from common.page_parts import absent, count, table
from common.tasks import task_of
from server.facts import ReportFacts
from server.page import epsilon, listed, sigma, small, span


def warnings(facts: ReportFacts) -> str:
    """Red boxes for a run without differential privacy and for noise that can be subtracted."""
    boxes = []
    if not facts.private:
        boxes.append(
            "<strong>No differential privacy in this run.</strong> The protocol's mechanism is "
            "“none”. Updates and the model may reveal who was a training patient; treat the model "
            "as patient data."
        )
    if facts.noise_seeded:
        boxes.append(
            "<strong>Noise came from a known seed: no privacy.</strong> This was a test mode. "
            "Whoever knows the seed can subtract the noise, so every ε in this report is void."
        )
    return "".join(f'<div class="warning" role="note">{box}</div>' for box in boxes)


def privacy(facts: ReportFacts) -> str:
    """The privacy statement of the run as a table of claims, and a list of what is not covered."""
    claims = _claims(facts) if facts.private else []
    if facts.private:
        lead = (
            "Whatever is computed from the released updates, the model included, says almost the "
            "same whether or not any one patient took part; ε and δ bound the difference."
        )
        if facts.noise_seeded:
            lead += " <strong>Not in this run: its noise can be subtracted.</strong>"
    else:
        lead = (
            "<strong>This run gives no privacy guarantee.</strong> Updates were neither clipped "
            "nor noised. A hospital allows this in a rehearsal only."
        )
    items = "".join(f"<li>{item}</li>" for item in _not_covered(facts))
    return (
        f"<p>{lead}</p>{table([], claims, 'words') if claims else ''}"
        f"<p>{'Not covered' if facts.private else 'What this run makes known'}:</p><ul>{items}</ul>"
    )


def limits(facts: ReportFacts) -> str:
    """What the figures may not be used for."""
    items = ["For research use. This is not a medical device; no diagnosis may rest on the model."]
    if facts.figure is not None:
        items += _of_figures(facts)
    if facts.rehearsal:
        items.append("A rehearsal shows that the study works; it is no evidence about hospitals.")
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _of_figures(facts: ReportFacts) -> list[str]:
    return [
        "Intervals cover the choice of patients, those of released figures the noise as well. They "
        "do not cover the choice of hospitals, the randomness of training, nor how the labels were "
        "made.",
        f"Validation patients come from the same hospitals as the training patients. How well the model "
        f"does {escape(task_of(facts.protocol).words(facts.protocol).elsewhere)} is not known.",
        "A hospital with few validation patients has a wide interval; differences between such "
        "hospitals mean little.",
    ]


def _claims(facts: ReportFacts) -> list[tuple[str, str]]:
    training, asked = facts.protocol.training, facts.protocol.privacy
    steps = len(facts.rounds) * training.steps_per_round
    void = " <strong>(void: seeded noise)</strong>" if facts.noise_seeded else ""
    guarantee = _spent([h.epsilon for h in facts.hospitals], asked.delta, void)
    noise = (
        "a known seed (test mode): no privacy"
        if facts.noise_seeded
        else "fresh entropy of each hospital's operating system, never kept"
    )
    if not facts.rehearsal:
        noise += ", by the hospital's own settings; the coordinator cannot check it"
    return [
        ("Unit", "the patient: all data of a patient, in all rounds together"),
        ("Neighbouring relation", "one patient added or removed"),
        (
            "Mechanism",
            "DP-SGD at each hospital: patients drawn by Poisson sampling, each patient's gradient "
            "clipped, Gaussian noise added before anything leaves (its σ by hospital: see the table "
            f"above). Sampling rate q = {training.sampling_rate:g}, clipping norm C = "
            f"{asked.max_grad_norm:g}, at most T = {steps} steps in {len(facts.rounds)} rounds",
        ),
        ("Guarantee, training", f"{guarantee} (agreed limit ε = {asked.epsilon:g})"),
        *(() if facts.figure is None else [_validation(facts, void)]),
        ("Accountants", _accountants(facts)),
        ("Noise source", noise),
        (
            "Trust",
            "the noise is added at the hospital, so the coordinator need not be trusted with "
            "patients. Each ε is the hospital's own statement; the coordinator cannot check it",
        ),
        (
            "Scope",
            "this study. Other studies on the same patients add to it, in each hospital's ledger",
        ),
    ]


def _validation(facts: ReportFacts, void: str) -> tuple[str, str]:
    asked = facts.protocol.privacy
    spent = _spent([h.validation_epsilon for h in facts.hospitals], asked.delta, void)
    return (
        "Guarantee, validation",
        f"{spent} (agreed limit ε = {asked.validation_epsilon:g}), an account of its own: these patients "
        f"are never trained on. Released are {_histograms(facts)}",
    )


def _spent(epsilons: Sequence[float | None], delta: float, void: str) -> str:
    """The guarantee as the hospitals state it, from the least to the largest epsilon."""
    known = [value for value in epsilons if value is not None]
    if not known:
        return absent("not reported by any hospital")
    return f"ε = {span(known, epsilon, ', by hospital')}, at δ = {small(delta)}{void}"


def _histograms(facts: ReportFacts) -> str:
    """What is released of the validation patients: how many histograms, when, how noisy."""
    protocol = facts.protocol
    every = protocol.evaluation.every
    when = "every model" if every == 1 else f"the initial model, every {every}th model after it"
    planned = (
        f"noised histograms of {when} and the final one, "
        f"{count(protocol.evaluations, 'histogram')} in a whole study"
    )
    made = [h.histograms for h in facts.hospitals if h.histograms is not None]
    done = f"; so far at most {max(made)} from a hospital" if made else ""
    noise = [h.validation_noise for h in facts.hospitals if h.validation_noise is not None]
    if not noise:
        return planned + done
    by_hospital = span(noise, sigma, ", by hospital,")
    return (
        f"{planned}{done}. A patient moves one by at most 1 in all (L2); its noise has σ = {by_hospital} "
        f"in each cell"
    )


def _accountants(facts: ReportFacts) -> str:
    named = {h.accountant for h in facts.hospitals} | {h.second_accountant for h in facts.hospitals}
    known = sorted(name for name in named if name not in (None, "none"))
    if not known:
        return absent("not reported")
    larger = ", written independently of each other; the larger ε counts" * (len(known) > 1)
    return listed(known) + larger


def _not_covered(facts: ReportFacts) -> list[str]:
    items = [
        "What is public by agreement: the protocol, the roster and every hospital's nominal number "
        "of patients.",
        "Who answered, refused or was missing in each round, and how long it took.",
    ]
    if facts.private:
        items.append(
            "A person who is a patient of two hospitals, or has two patient numbers: the ε of "
            "each add up."
        )
        items.append(
            "What the model says about patients in general. Privacy hides taking part, not "
            "medical knowledge."
        )
    if facts.pooled is not None:
        items.append(
            "<strong>The exact figures in this report</strong> (of all patients and by hospital, with "
            "intervals, curves, numbers of validation patients and local-only models). They are the "
            "rehearser's own and would not leave a hospital: in a deployment only noised histograms do."
        )
    return items
