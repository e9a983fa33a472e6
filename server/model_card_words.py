"""Facts of a run as sentences in Markdown, for the model card and the reporting checklist.

What is from outside is defused here; nothing exact that a hospital did not release is said, but for
columns and sentences that name a rehearsal.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from common.markdown import code, word
from common.page_parts import count
from common.protocol import StudyProtocol
from common.tasks import task_of
from common.tasks.words import Words
from server.admission import REASONS
from server.facts import ReportFacts, RoundFacts
from server.flags import WORDS
from server.page import epsilon, runs, small

RANDOM = "the network's own start, where it is random drawn from the study's digest"
FILE = "a file; what it was trained on is not known here"


@dataclass(frozen=True)
class Size:
    """How many numbers the model has, and how many of them hospitals trained."""

    weights: int
    trained: int


def warnings(facts: ReportFacts) -> list[str]:
    """What has to be known before any figure is read."""
    said = []
    if facts.rehearsal:
        said.append(
            "**A rehearsal.** One person held the data of all hospitals, which were simulated. It is no "
            "evidence about hospitals."
        )
    if not facts.private:
        said.append("**No differential privacy.** Treat the model as patient data.")
    if facts.noise_seeded:
        said.append("**Test mode.** The noise came from a known seed, so every epsilon is void.")
    return said


def is_judged(facts: ReportFacts) -> bool:
    """Whether the figures are of the model that the run left.

    Not so after an end between two evaluations, nor after any early end where that model is a moving
    average: rounds judge the newest model, the final evaluation alone the average.
    """
    closed, planned = len(facts.rounds), facts.protocol.rounds
    averaged = facts.protocol.aggregation.ema is not None
    return facts.judged_after == closed and (closed == planned or not averaged)


def architecture(protocol: StudyProtocol, size: Size) -> str:
    """ "compact-cnn, 60,514 weights, of which hospitals train 60,514 (trainable = all)"."""
    model = protocol.model
    return (
        f"{word(model.name)}, {size.weights:,} weights, of which hospitals train {size.trained:,} "
        f"(trainable = {model.trainable})"
    )


def initial_model(protocol: StudyProtocol) -> str:
    """The name, and what it stands for."""
    name = protocol.model.initial_model
    origins = {"random": RANDOM, **words_of(protocol).origins}
    return f"{word(name)}: {word(origins.get(name, FILE))}"


def training(protocol: StudyProtocol) -> str:
    """The local work of a round, and what it adds up to."""
    local, view = protocol.training, task_of(protocol).view
    return (
        f"{count(protocol.rounds, 'round')} of {count(local.steps_per_round, 'SGD step')} at each hospital, "
        f"learning rate {local.learning_rate:g}, momentum {local.momentum:g}; a patient is drawn with "
        f"probability {local.sampling_rate:g}, with up to {count(local.views_per_patient, view)}; "
        f"{word(words_of(protocol).augmentation)}"
    )


def aggregation(protocol: StudyProtocol) -> str:
    """The rule and its settings, under their names in the protocol."""
    settings = protocol.aggregation.model_dump(by_alias=True, exclude_none=True)
    quorum = protocol.participation.quorum
    said = ", ".join(f"{name} = {value}" for name, value in settings.items())
    return f"{said}; a round closes with at least {quorum} of {len(protocol.hospitals)} hospitals"


def software() -> str:
    """The program and the libraries that compute, with their versions."""
    return ", ".join(f"{name} {version(name)}" for name in ("intramural", "torch", "flwr"))


def words_of(protocol: StudyProtocol) -> Words:
    """What the study's task alone knows; each is still to be defused."""
    return task_of(protocol).words(protocol)


def purpose(protocol: StudyProtocol) -> str:
    """What the model tells from what, on what: "to tell ..."."""
    return word(task_of(protocol).purpose(protocol))


def evaluation_data(facts: ReportFacts) -> Iterator[str]:
    """Whose patients judged the model."""
    if facts.figure is None:
        yield "None: nothing is judged in this study, and validation patients take no part in it."
        return
    share = 100 * facts.protocol.data.validation_fraction
    yield (
        f"{share:g} % of each hospital's patients by a hash of the patient number, or those of the "
        f"hospital's own list; they are never trained on. They come from the same hospitals as the "
        f"training patients."
    )
    if facts.judging is not None:
        released, held = facts.judging.released, facts.judging.suppressed
        yield (
            f"Of {len(facts.protocol.hospitals)} hospitals {len(released)} released a histogram of the "
            f"model{': ' * bool(released)}{named(released)}."
        )
        if held:
            yield (
                f"{named(held)}: fewer patients in a group than the hospital's own policy releases, which "
                f"is not zero patients. They are not in the figures."
            )
    yield "How many validation patients there are does not leave a hospital and is not stated here."


def absences(facts: ReportFacts, hospital: str) -> Iterator[str]:
    """Where an answer of `hospital` is not in the model or the figures, and why."""
    for why, rounds in _when(facts.heard, hospital):
        yield f"{why} in {'round' if len(rounds) == 1 else 'rounds'} {runs(rounds)}"


def _when(heard: Sequence[RoundFacts], hospital: str) -> Iterator[tuple[str, list[int]]]:
    when: dict[str, list[int]] = {}
    for r in heard:
        if hospital in r.refused:
            reply = r.refused[hospital]
            why = f"not used, {REASONS[reply]}" if reply in REASONS else f"refused ({word(reply)})"
            when.setdefault(why, []).append(r.round)
        elif hospital in r.missing:
            when.setdefault("missing", []).append(r.round)
        elif hospital in r.suppressed:
            when.setdefault("no histogram released", []).append(r.round)
    yield from when.items()


def flagged(facts: ReportFacts, hospital: str) -> Iterator[str]:
    """The warnings about updates of `hospital`."""
    when: dict[str, list[int]] = {}
    for r in facts.rounds:
        for flag in r.flags.get(hospital, ()):
            when.setdefault(flag, []).append(r.round)
    for flag, rounds in when.items():
        yield f"{WORDS[flag]} ({code(flag)}, round {runs(rounds)})"


def interval(value: float, bounds: tuple[float, float] | None) -> str:
    """ "0.912 (0.871 to 0.946)"."""
    return f"{value:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else "")


def privacy_words(facts: ReportFacts) -> list[str]:
    """The privacy claim in short; where it is whole is said at its end."""
    asked = facts.protocol.privacy
    validation = (
        "" if facts.figure is None else f", {asked.validation_epsilon:g} for validation patients"
    )
    return [
        f"Unit: the patient, with all data, added or removed, over all rounds. Delta {small(asked.delta)}. "
        f"Agreed: epsilon {asked.epsilon:g} for training patients{validation}, at each hospital.",
        f"Mechanism: DP-SGD at the hospital, clipping norm {asked.max_grad_norm:g}, noise added before "
        f"anything leaves. Each epsilon is the hospital's own statement; nobody outside can check it.",
        "A patient of two hospitals has the sum of both epsilons. Who took part in which round, and how "
        "long it took, is not covered. The whole claim is in each hospital's privacy-statement.md.",
    ]


def epsilon_words(value: float) -> str:
    """Rounded up, or that there is no bound."""
    return epsilon(value) if value != float("inf") else "no bound"


def caveats(facts: ReportFacts) -> Iterator[str]:
    """What the figures do not say, and what to do about it."""
    yield (
        f"How well it does {word(words_of(facts.protocol).elsewhere)} is not known. Judge it on patients "
        f"of your own before anything else."
    )
    if facts.figure is not None:
        yield "The outcomes of the study, as hospitals have them, are taken for the truth."
        yield "What was chosen on the patients that judge it will do a little worse on others."
    if facts.private and facts.figure is None:
        yield "The noise that protects patients moves what is stated: the report says how far."
    elif facts.private:
        yield (
            "The noise that protects patients costs accuracy, and makes the figures above as vague as "
            "their intervals say."
        )
    nominal = (replace(hospital, validation_patients=None) for hospital in facts.hospitals)
    for sentence in replace(facts, hospitals=tuple(nominal)).small_cohorts():
        yield word(sentence)
    yield "Consent, ethics vote and contracts are outside this software."


def named(hospitals: Iterable[str]) -> str:
    return ", ".join(word(name) for name in hospitals)
