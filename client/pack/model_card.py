"""The model card of each approved study, as far as this hospital knows it.

The headings are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Facts only:
from the protocol, the ledger and, where it was given, the coordinator's file; what is not known is
said to be unknown.
"""

from math import prod

from client.pack.dossier import Dossier
from client.pack.markdown import items, table
from client.pack.quorum import ClosedRound, Quorum
from client.statement import StudyFacts
from client.statement_text import rounded_up
from common.errors import RunError
from common.model_spec import model_spec, update_spec
from common.page_parts import plural
from common.protocol import StudyProtocol
from common.tasks import judge_of, task_of
from common.tasks.words import Words

RANDOM = "random weights, drawn from the study's digest"
FROM_A_FILE = "a file that the coordinator names; what it was trained on is unknown here"
UNKNOWN = "unknown at this hospital"
NOTHING_TO_JUDGE = (
    "None: the study states figures of patients' data, and there is no model to be judged."
)


def card_section(dossier: Dossier, quorum: Quorum | None) -> str:
    """Section 6: a card for each study whose text was kept."""
    cards = [_card(dossier, protocol, quorum) for protocol in dossier.protocols]
    return (
        "# 6. Model card\n\nHeadings after Mitchell et al. 2019, *Model Cards for Model Reporting*. "
        "Written from what this hospital knows.\n\n"
        + (
            "\n".join(cards)
            or "No study is approved here with its text kept, so there is no model.\n"
        )
    )


def _card(dossier: Dossier, protocol: StudyProtocol, quorum: Quorum | None) -> str:
    task, words = task_of(protocol), task_of(protocol).words(protocol)
    return "\n".join(
        (
            f"## Study {dossier.name_of(protocol.digest)}\n",
            "### Model details\n\n" + table(("item", "fact"), _details(protocol, words)),
            "### Intended use\n\n"
            + items(
                (
                    f"Research {task.purpose(protocol)}.",
                    "Research use, not a medical device. No diagnosis and no treatment may rest on it.",
                    "Out of scope: patients, hospitals and questions other than those of the study.",
                    *(f"Not for: {what}." for what in words.not_for),
                )
            ),
            "### Factors\n\n" + items((words.groups, *_truth(protocol, words))),
            "### Metrics\n\n" + items(_metrics(protocol)),
            "### Evaluation data\n\n" + items(_evaluation_data(protocol)),
            "### Training data\n\n"
            + table(("hospital", "nominal training patients"), _nominal(protocol))
            + "\nThe nominal numbers are public and agreed; the true ones stay at each hospital. "
            + _taken_part(dossier, protocol),
            "### Quantitative analyses\n\n" + _evaluated(protocol, quorum),
            "### Ethical considerations\n\n" + items(_privacy(dossier, protocol)),
            "### Caveats and recommendations\n\n"
            + items(
                (
                    f"How well it holds {words.elsewhere} is not known from this study.",
                    "The noise that protects patients also costs accuracy.",
                    "Section 7 says what no guarantee covers.",
                )
            ),
            "### Contact\n\n"
            + table(
                ("for", "name", "telephone, mail"),
                [("this hospital", "", ""), ("coordinator", "", "")],
            ),
        )
    )


def _details(protocol: StudyProtocol, words: Words) -> list[tuple[str, object]]:
    model, training = protocol.model, protocol.training
    weights, trained = (
        sum(map(prod, spec(protocol).values())) for spec in (model_spec, update_spec)
    )
    rule = protocol.aggregation
    settings = rule.model_dump(exclude_none=True, by_alias=True)
    origins = {"random": RANDOM, **words.origins}
    return [
        ("architecture", model.name),
        ("input", words.input),
        ("output", words.output),
        (
            "weights",
            f"{weights:,}, of which {trained:,} are trained (trainable: {model.trainable})",
        ),
        (
            "initial model",
            f"{model.initial_model}: {origins.get(model.initial_model, FROM_A_FILE)}",
        ),
        (
            "training",
            f"{protocol.rounds} rounds of {training.steps_per_round} local steps, learning rate "
            f"{training.learning_rate:g}, momentum {training.momentum:g}",
        ),
        ("aggregation", ", ".join(f"{key} {value}" for key, value in settings.items())),
        ("date and version of the final model", f"{UNKNOWN}; the coordinator's report has them"),
        ("licence", UNKNOWN),
    ]


def _truth(protocol: StudyProtocol, words: Words) -> list[str]:
    if task_of(protocol).judge is None:
        return []
    return [f"Taken for the truth: {words.outcome}."]


def _metrics(protocol: StudyProtocol) -> list[str]:
    judge = task_of(protocol).judge
    if judge is None:
        return [NOTHING_TO_JUDGE]
    return [
        f"{judge.figure[0].upper()}{judge.figure[1:]} by patient, read from the sum of the hospitals' "
        f"noised histograms ({judge.cells}), with a 95 % interval for noise and choice of patients together.",
        f"Released {protocol.evaluations} times a hospital: the last time of the final model.",
        "Exact figures on this hospital's own patients stay in its state folder and are not in this pack.",
    ]


def _evaluation_data(protocol: StudyProtocol) -> list[str]:
    share = f"{100 * protocol.data.validation_fraction:g} % of each hospital's patients"
    if task_of(protocol).judge is None:
        return [f"None. {share} take no part in this study."]
    return [
        f"{share}, chosen by their ids or by the hospital's own list, and never trained on.",
        "How many they are does not leave a hospital and is not in this pack.",
    ]


def _nominal(protocol: StudyProtocol) -> list[tuple[str, str]]:
    return [(hospital.name, f"{hospital.nominal_patients:,}") for hospital in protocol.hospitals]


def _facts(dossier: Dossier, protocol: StudyProtocol) -> StudyFacts | None:
    studies = dossier.statement.studies if dossier.statement is not None else ()
    return next((study for study in studies if study.digest == protocol.digest), None)


def _taken_part(dossier: Dossier, protocol: StudyProtocol) -> str:
    study = _facts(dossier, protocol)
    if study is None:
        return "This hospital has answered nothing of the study yet.\n"
    return (
        f"This hospital answered {study.answered} requests of the study "
        f"({protocol.rounds} rounds{' and the final evaluation' * study.judged} are planned).\n"
    )


def _evaluated(protocol: StudyProtocol, quorum: Quorum | None) -> str:
    """The released discrimination of every model that the coordinator's file judges."""
    judge = task_of(protocol).judge
    if judge is None:
        return f"{NOTHING_TO_JUDGE}\n"
    if quorum is None or quorum.protocol != protocol:
        return (
            f"{UNKNOWN.capitalize()}: the coordinator's `rounds.jsonl` was not given (section 5). The "
            f"figures of the final model are in the coordinator's report.\n"
        )
    rows = [
        (
            f"after {one.round - 1} rounds" if one.round > 1 else "initial model",
            *_released(one, quorum),
        )
        for one in quorum.rounds
        if one.histogram is not None
    ]
    noise = "without noise" if protocol.privacy.mechanism == "none" else "noise included"
    return (
        table(("model", judge.figure, f"95 % interval, {noise}", "histograms of"), rows)
        + "\nFrom the coordinator's file, all hospitals that released one together. The final model is "
        "judged after the last round, which this file does not hold: its figures are in the "
        "coordinator's report. No figure by group of patients exists.\n"
    )


def _released(one: ClosedRound, quorum: Quorum) -> tuple[str, str, str]:
    others = [
        other.histogram
        for other in quorum.rounds
        if other is not one and other.histogram and other.released == one.released
    ]
    judge, protocol = judge_of(quorum.protocol), quorum.protocol
    try:
        found = judge.read(protocol, one.histogram or (), one.histogram_noise or 0.0, others)
    except ValueError as error:
        raise RunError(
            f"expected a histogram of this study in round {one.round} of the coordinator's rounds: {error}; "
            f"ask the coordinator for the file as it is in the run folder"
        ) from error
    whose = f"{len(one.released)} hospitals"
    if found is None:
        return "not above the noise", "-", whose
    value, (low, high) = found.discrimination.value, found.discrimination.interval
    return f"{value:.3f}", f"{low:.3f} to {high:.3f}", whose


def _privacy(dossier: Dossier, protocol: StudyProtocol) -> list[str]:
    privacy, study = protocol.privacy, _facts(dossier, protocol)
    data = plural(task_of(protocol).view).capitalize()
    said = [f"{data} of patients were used without leaving their hospitals."]
    if privacy.mechanism == "none":
        return [*said, "NO differential privacy: treat the model as patient data."]
    validation = ""
    if protocol.evaluations:
        validation = f" and {privacy.validation_epsilon:g} (validation patients)"
    said.append(
        f"Agreed for each hospital: epsilon {privacy.epsilon:g} (training patients)"
        f"{validation} at delta {privacy.delta:g}, the patient as the unit."
    )
    if study is not None and study.private:
        void = ", VOID since the noise came from a known seed" * study.seeded
        said += [
            f"Spent here on the {account} patients so far: epsilon {rounded_up(facts.epsilon.value)} at "
            f"delta {facts.epsilon.delta:g}{void}."
            for account, facts in study.accounts.items()
        ]
    return [*said, "What the other hospitals spent is their statement and not known here."]
