"""What a study will cost and can achieve at each hospital, before anything is trained.

From the protocol's public constants alone. Over a study of T steps at rate q with noise multiplier
sigma, clipping norm C and n patients, look along one direction of the space of weights:

    one patient, drawn in q T of the steps, moves the sum of all steps by at most    q T C
    the noise moves it, at random, with a standard deviation of                      sigma C sqrt(T)

Their ratio is the *patient's* signal-to-noise, q sqrt(T) / sigma: about 1 or less means that nobody
sees a single patient behind the noise. n patients who pull in the same direction have n times as
much: the *cohort's* signal-to-noise, which says whether a hospital has something to give.
"""

import logging
import tempfile
from dataclasses import asdict, dataclass
from math import exp, sqrt
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from client.ledger import Spend
from client.privacy.accounting import epsilon_of
from client.privacy.budget import protocol_noise
from client.readers import reader_of
from client.readers.reader import Opening
from common.histogram import auroc_noise_error
from common.judging.binary import Binary
from common.page_parts import count
from common.protocol import Hospital, StudyProtocol, load_protocol
from common.tasks import judge_of, task_of
from server.strategy import public_weights
from simulation.disturbance import bearable, disturbance, too_much
from simulation.hospitals import from_folder, from_phantoms, settle
from simulation.live import Silent, shown
from simulation.rehearsal import Rehearsal

MOST_ROUNDS_COMPUTED = 20  # epsilon takes up to a second each
PHANTOM_SEEDS = (1, 2, 3)

# What the words say; measured in the docstring's units.
GIVES_FROM = 0.01  # share of the average below which leaving the hospital out changes nothing
LOUD_FROM = 3.0  # cohort's signal-to-noise below which an update is mostly noise
WEAK_EPSILON = 10.0
WEAK_DELTA = 0.01  # delta x patients


@dataclass(frozen=True)
class Outlook:
    """AUROC on the pooled validation patients of rehearsals with phantoms, lowest and highest."""

    seeds: int
    low: float
    high: float
    before: float  # mean AUROC of the initial model


@dataclass(frozen=True)
class HospitalPlan:
    """One hospital in the plan; `weight` is its public share of the average, 0 to 1."""

    name: str
    patients: int
    weight: float
    gives: bool
    cohort_signal_to_noise: float | None
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The whole study; figures of privacy are None without differential privacy.

    `disturbance` is how far the noise moves the model and `bearable_disturbance` how far did no harm, where
    that is known (`simulation.disturbance`);
    `released_auroc_error` the standard error that noise alone gives the pooled released AUROC, were
    half of the validation patients to have positive images and all of them negative ones.
    `epsilon` is (round, epsilon) after up to `MOST_ROUNDS_COMPUTED` of the rounds and the last, the
    same at every hospital whose own cap is not lower and whose patients are new.
    """

    study: str
    digest: str
    sampling_rate: float
    steps: int
    delta: float
    noise_multiplier: float | None
    validation_noise: float | None
    evaluations: int
    epsilon: tuple[tuple[int, float], ...]
    accountant: str | None
    patient_signal_to_noise: float | None
    disturbance: float | None
    bearable_disturbance: float | None
    released_auroc_error: float | None
    hospitals: tuple[HospitalPlan, ...]
    remarks: tuple[str, ...]
    outlook: Outlook | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_of(protocol: StudyProtocol, found: dict[str, int] | None = None) -> Plan:
    """The plan of `protocol`; `found` are training patients in a data folder, to compare with it."""
    training, delta = protocol.training, protocol.privacy.delta
    noise = protocol_noise(protocol) if protocol.privacy.mechanism != "none" else None
    curve: list[tuple[int, float]] = []
    accountant = of_one = None
    if noise is not None:
        for server_round in _rounds(protocol.rounds):
            steps = server_round * training.steps_per_round
            spend = Spend(noise["training"], training.sampling_rate, steps)
            epsilon = epsilon_of([spend], delta)
            curve.append((server_round, epsilon.value))
            accountant = epsilon.accountant
        of_one = training.sampling_rate * sqrt(protocol.total_steps) / noise["training"]
    sigma = noise["training"] if noise else None
    weights = public_weights(protocol, dict.fromkeys(protocol.hospital_names, sigma or 0.0))
    whole = sum(weights.values())
    return Plan(
        study=protocol.study,
        digest=protocol.digest,
        sampling_rate=training.sampling_rate,
        steps=protocol.total_steps,
        delta=delta,
        noise_multiplier=sigma,
        validation_noise=noise["validation"] if noise else None,
        evaluations=protocol.evaluations,
        epsilon=tuple(curve),
        accountant=accountant,
        patient_signal_to_noise=of_one,
        disturbance=disturbance(protocol, sigma) if sigma else None,
        bearable_disturbance=bearable(protocol),
        released_auroc_error=_released_error(protocol, noise["validation"]) if noise else None,
        hospitals=tuple(
            _hospital(protocol, hospital, weights[hospital.name] / whole, of_one, found or {})
            for hospital in protocol.hospitals
        ),
        remarks=tuple(_of_the_study(protocol, sigma)),
    )


def _released_error(protocol: StudyProtocol, sigma: float) -> float | None:
    """None where no AUROC is released, or of nobody."""
    fraction = protocol.data.validation_fraction
    training = sum(hospital.nominal_patients for hospital in protocol.hospitals)
    judges = training * fraction / (1 - fraction)
    if not judges or not isinstance(task_of(protocol).judge, Binary):
        return None
    return auroc_noise_error(judges / 2, judges, sigma * sqrt(len(protocol.hospitals)))


def _rounds(rounds: int) -> list[int]:
    """All rounds, or `MOST_ROUNDS_COMPUTED` of them with the first and the last."""
    if rounds <= MOST_ROUNDS_COMPUTED:
        return list(range(1, rounds + 1))
    step = (rounds - 1) / (MOST_ROUNDS_COMPUTED - 1)
    return [1 + round(i * step) for i in range(MOST_ROUNDS_COMPUTED)]


def _hospital(
    protocol: StudyProtocol,
    hospital: Hospital,
    weight: float,
    of_one: float | None,
    found: dict[str, int],
) -> HospitalPlan:
    n = hospital.nominal_patients
    signal = n * of_one if of_one is not None else None
    gives = weight >= GIVES_FROM and (signal is None or signal >= LOUD_FROM)
    remarks = []
    if signal is not None and signal < LOUD_FROM:
        remarks.append(
            f"too small to matter: even if all {n} patients agree, they are {signal:.1f} times the "
            f"noise; it would learn next to nothing alone and is served by the others' model"
        )
    elif not gives:
        remarks.append(
            f"too small to matter: {100 * weight:.1g} % of the average; the model is the same "
            f"without it, and it is served by the others"
        )
    if of_one is not None and protocol.privacy.delta * n > WEAK_DELTA:
        remarks.append(
            f"delta {protocol.privacy.delta:g} is more than a hundredth of 1 / {n}: the promise may "
            f"fail outright for one of its patients with a chance of {protocol.privacy.delta * n:.1%}"
        )
    fraction = protocol.data.validation_fraction
    judges = n * fraction / (1 - fraction)
    if judges < 10 and protocol.evaluations:
        remarks.append(
            f"about {judges:.0f} validation patients: too few to be judged by; only the pooled "
            f"figure says something"
        )
    actual = found.get(hospital.name)
    if actual is not None and not 0.8 * n <= actual <= 1.25 * n:
        remarks.append(
            f"the folder has {actual} training patients and the protocol says {n}: the noise is "
            f"made for {n}"
        )
    return HospitalPlan(hospital.name, n, weight, gives, signal, tuple(remarks))


def _of_the_study(protocol: StudyProtocol, sigma: float | None) -> list[str]:
    privacy = protocol.privacy
    if sigma is None:
        return ["NO differential privacy (mechanism = none): for rehearsals only."]
    remarks = [
        "Each hospital's patients have this budget of their own; a patient of two hospitals pays "
        "in both."
    ]
    if too_high := too_much(protocol, sigma):
        remarks.append(too_high)
    if privacy.epsilon > WEAK_EPSILON:
        remarks.append(
            f"epsilon {privacy.epsilon:g} is a weak promise: by it alone, what is known of a patient "
            f"may become e^{privacy.epsilon:g} = {exp(privacy.epsilon):.1g} times as likely."
        )
    return remarks


def rehearsed(protocol: StudyProtocol) -> Outlook:
    """The study on phantom patients, once for each of `PHANTOM_SEEDS`, with fresh noise each time.

    Phantoms are not the hospitals' patients: the band says how much noise and chance move the result
    and whether training helps at all, and is no forecast for real ones.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # hospitals run side by side
    after, before = [], []
    for seed in PHANTOM_SEEDS:
        with tempfile.TemporaryDirectory(prefix="intramural-plan-") as folder:
            home = Path(folder) / "hospitals"
            data = from_phantoms(protocol, home, seed)
            sites = settle(protocol, home, data, device="auto", noise_seed=None)
            rehearsal = Rehearsal(protocol, Path(folder), sites)
            done = rehearsal.carry_out(Silent(), resume=False).state.round
            after.append(_pooled(rehearsal, done))
            before.append(_pooled(rehearsal, 0))
    return Outlook(len(PHANTOM_SEEDS), min(after), max(after), sum(before) / len(before))


def _pooled(rehearsal: Rehearsal, after_round: int) -> float:
    judge = judge_of(rehearsal.protocol)
    scores = judge.concatenate(list(rehearsal.scores(after_round).values()))
    return judge.discrimination(scores) or 0.5  # of one class only: nothing can be told apart


def planned(
    path: Path, data: Path | None, patient_id_pattern: str | None
) -> tuple[StudyProtocol, Plan]:
    """The protocol in `path`, with the hospitals in `data` as its roster if there are any, and its plan."""
    protocol = load_protocol(path)
    if data is None:
        return protocol, plan_of(protocol)
    protocol, folders = from_folder(protocol, data, patient_id_pattern)
    reader = reader_of(protocol.task)
    found = {
        name: reader.count_patients(protocol, Opening(folder, patient_id_pattern))[0]
        for name, folder in folders.items()
    }
    return protocol, plan_of(protocol, found)


def print_plan(console: Console, plan: Plan) -> None:
    """The plan for a person, with every number's unit and the words to it."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(f"plan of '{plan.study}' ({plan.digest[:12]}); nothing has been trained or spent")
    if plan.noise_multiplier is not None:
        some = [plan.epsilon[i] for i in _rows(len(plan.epsilon))]
        say(
            f"noise multiplier {plan.noise_multiplier:.3f} on training patients, "
            + (
                f"{plan.validation_noise:.3f} on validation patients "
                f"({count(plan.evaluations, 'evaluation')}); "
                if plan.evaluations
                else "nothing of validation patients is released; "
            )
            + f"rate {plan.sampling_rate:g}, {count(plan.steps, 'step')}"
        )
        say(
            f"epsilon at delta {plan.delta:g} ({plan.accountant}): "
            + ", ".join(f"{epsilon:.2f} after round {number}" for number, epsilon in some)
        )
        say(
            f"one patient's largest influence is {plan.patient_signal_to_noise:.2f} times the noise "
            f"(q sqrt(steps) / sigma), that of all patients of a hospital who agree is in the table"
        )
        if plan.released_auroc_error is not None:
            say(
                f"noise alone gives the released AUROC a standard error of about "
                f"{plan.released_auroc_error:.2f}, where half of the validation patients are positive"
            )
        known = plan.bearable_disturbance
        say(
            f"the noise moves the model by {plan.disturbance:.2g} in all"
            + (f"; up to {known:g} did no harm to the shipped model of images" if known else "")
        )
    table = Table(show_edge=False)
    table.add_column("hospital", no_wrap=True)
    for column in ("patients", "sigma", "epsilon", "all patients", "weight", "role"):
        table.add_column(column, justify="right", no_wrap=True)
    for hospital in plan.hospitals:
        signal = hospital.cohort_signal_to_noise
        table.add_row(
            hospital.name,
            str(hospital.patients),
            shown(plan.noise_multiplier, 2),
            shown(plan.epsilon[-1][1] if plan.epsilon else None, 2),
            f"{shown(signal, 1)} x noise" if signal is not None else "no noise",
            f"{100 * hospital.weight:.2f} %",
            "gives" if hospital.gives else "only takes",
        )
    console.print(table)
    for hospital in plan.hospitals:
        for remark in hospital.remarks:
            say(f"{hospital.name}: {remark}")
    for remark in plan.remarks:
        say(remark)


def print_outlook(console: Console, protocol: StudyProtocol, outlook: Outlook) -> None:
    """The band, and how to read it: phantoms teach nothing new to a model that comes from phantoms."""
    reading = "read the gain and not the level"
    if protocol.model.initial_model == "phantom":
        reading = (
            "the initial model knows phantoms already, so training on more of them can hardly gain, "
            "and what is lost is what the noise destroys"
        )
    console.print(
        f"on phantom patients: pooled {judge_of(protocol).figure} {outlook.low:.3f} to {outlook.high:.3f} in "
        f"{outlook.seeds} rehearsals with other patients and other noise, {outlook.before:.3f} "
        f"before training; phantoms are not your patients: {reading}",
        highlight=False,
        soft_wrap=True,
    )


def _rows(count: int) -> list[int]:
    """First, quarters and last of `count`, each once."""
    return sorted({0, count // 4, count // 2, 3 * count // 4, count - 1})
