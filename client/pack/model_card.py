"""The model card of each approved study, as far as this hospital knows it.

The headings are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Facts only:
from the protocol, the ledger and, where it was given, the coordinator's file; what is not known is
said to be unknown.
"""

from math import prod

from client.pack.dossier import Dossier
from client.pack.markdown import items, plain, table
from client.pack.quorum import ClosedRound, Quorum
from client.statement import StudyFacts
from client.statement_text import rounded_up
from common.errors import RunError
from common.histogram import auroc_of_histogram
from common.model_spec import model_spec, update_spec
from common.protocol import StudyProtocol

ORIGINS = {
    "random": "random weights, drawn from the study's digest",
    "phantom": "pre-trained on synthetic lung CT (phantoms), without any patient",
    "imagenet": "torchvision's ImageNet weights (photographs), folded into frozen affine layers",
}
FROM_A_FILE = "a file that the coordinator names; what it was trained on is unknown here"
UNKNOWN = "unknown at this hospital"


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
    negative, positive = map(plain, protocol.images.classes)
    return "\n".join(
        (
            f"## Study {dossier.name_of(protocol.digest)}\n",
            "### Model details\n\n" + table(("item", "fact"), _details(protocol)),
            "### Intended use\n\n"
            + items(
                (
                    f"Research on {protocol.task}: '{positive}' against '{negative}' on single images of "
                    f"{protocol.images.size} x {protocol.images.size} pixels.",
                    "Research use, not a medical device. No diagnosis and no treatment may rest on it.",
                    "Out of scope: patients, scanners and questions other than those of the study.",
                )
            ),
            "### Factors\n\n"
            + items(
                (
                    f"Scanners, reconstruction, age, sex and case mix at the hospitals: {UNKNOWN}; none "
                    f"of it is collected, and no figure is stated by group.",
                    "Each hospital labels its own images; how is not part of the protocol.",
                )
            ),
            "### Metrics\n\n" + items(_metrics(protocol)),
            "### Evaluation data\n\n"
            + items(
                (
                    f"{100 * protocol.images.validation_fraction:g} % of each hospital's patients, chosen by "
                    f"their ids or by the hospital's own list, and never trained on.",
                    "How many they are does not leave a hospital and is not in this pack.",
                )
            ),
            "### Training data\n\n"
            + table(("hospital", "nominal training patients"), _nominal(protocol))
            + "\nThe nominal numbers are public and agreed; the true ones stay at each hospital. "
            + _taken_part(dossier, protocol),
            "### Quantitative analyses\n\n" + _evaluated(protocol, quorum),
            "### Ethical considerations\n\n" + items(_privacy(dossier, protocol)),
            "### Caveats and recommendations\n\n"
            + items(
                (
                    "How well it does on patients of other hospitals, on other scanners or in screening "
                    "is not known from this study.",
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


def _details(protocol: StudyProtocol) -> list[tuple[str, object]]:
    model, training = protocol.model, protocol.training
    weights, trained = (
        sum(map(prod, spec(protocol).values())) for spec in (model_spec, update_spec)
    )
    rule = protocol.aggregation
    settings = rule.model_dump(exclude_none=True, by_alias=True)
    return [
        ("architecture", model.name),
        ("input", f"{protocol.images.channels} x {protocol.images.size} x {protocol.images.size}"),
        (
            "classes",
            f"{protocol.images.classes[0]} (negative), {protocol.images.classes[1]} (positive)",
        ),
        (
            "weights",
            f"{weights:,}, of which {trained:,} are trained (trainable: {model.trainable})",
        ),
        (
            "initial model",
            f"{model.initial_model}: {ORIGINS.get(model.initial_model, FROM_A_FILE)}",
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


def _metrics(protocol: StudyProtocol) -> list[str]:
    evaluation = protocol.evaluation
    return [
        "AUROC by patient, read from the sum of the hospitals' noised score histograms, with a 95 % "
        "interval for noise and choice of patients together.",
        f"Released {protocol.evaluations} times a hospital: the last time of the final model. "
        f"Calibration is stated at a prevalence of {100 * evaluation.prevalence:g} %.",
        "Exact figures on this hospital's own patients stay in its state folder and are not in this pack.",
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
        f"({protocol.rounds} rounds and the final evaluation are planned).\n"
    )


def _evaluated(protocol: StudyProtocol, quorum: Quorum | None) -> str:
    """The released AUROC of every model that the coordinator's file judges."""
    if quorum is None or quorum.protocol != protocol:
        return (
            f"{UNKNOWN.capitalize()}: the coordinator's `rounds.jsonl` was not given (section 5). The "
            f"figures of the final model are in the coordinator's report.\n"
        )
    rows = [
        (
            f"after {one.round - 1} rounds" if one.round > 1 else "initial model",
            *_auroc(one, quorum),
        )
        for one in quorum.rounds
        if one.histogram is not None
    ]
    noise = "without noise" if protocol.privacy.mechanism == "none" else "noise included"
    return (
        table(("model", "AUROC", f"95 % interval, {noise}", "histograms of"), rows)
        + "\nFrom the coordinator's file, all hospitals that released one together. The final model is "
        "judged after the last round, which this file does not hold: its figures are in the "
        "coordinator's report. No figure by group of patients exists.\n"
    )


def _auroc(one: ClosedRound, quorum: Quorum) -> tuple[str, str, str]:
    others = [
        other.histogram
        for other in quorum.rounds
        if other is not one and other.histogram and other.released == one.released
    ]
    try:
        found = auroc_of_histogram(one.histogram or (), one.histogram_noise or 0.0, others)
    except ValueError as error:
        raise RunError(
            f"expected a score histogram in round {one.round} of the coordinator's rounds: {error}; ask "
            f"the coordinator for the file as it is in the run folder"
        ) from error
    whose = f"{len(one.released)} hospitals"
    if found is None:
        return "not above the noise", "-", whose
    return f"{found.value:.3f}", f"{found.interval[0]:.3f} to {found.interval[1]:.3f}", whose


def _privacy(dossier: Dossier, protocol: StudyProtocol) -> list[str]:
    privacy, study = protocol.privacy, _facts(dossier, protocol)
    said = ["Images of patients were used without leaving their hospitals."]
    if privacy.mechanism == "none":
        return [*said, "NO differential privacy: treat the model as patient data."]
    said.append(
        f"Agreed for each hospital: epsilon {privacy.epsilon:g} (training patients) and "
        f"{privacy.validation_epsilon:g} (validation patients) at delta {privacy.delta:g}, the patient as "
        f"the unit."
    )
    if study is not None and study.private:
        void = ", VOID since the noise came from a known seed" * study.seeded
        said += [
            f"Spent here on the {account} patients so far: epsilon {rounded_up(facts.epsilon.value)} at "
            f"delta {facts.epsilon.delta:g}{void}."
            for account, facts in study.accounts.items()
        ]
    return [*said, "What the other hospitals spent is their statement and not known here."]
