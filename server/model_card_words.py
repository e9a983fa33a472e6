"""Facts of a run as sentences in Markdown, for the model card and the reporting checklist.

What is from outside is defused here; nothing exact that a hospital did not release is said, but for
columns and sentences that name a rehearsal.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from common.markdown import code, word
from common.page_parts import count
from common.protocol import Images, StudyProtocol
from common.released import WANTED_SENSITIVITY, Reading
from server.admission import REASONS
from server.facts import UNREADABLE, ReportFacts, RoundFacts
from server.flags import WORDS
from server.page import epsilon, runs, small

ORIGINS = {
    "random": "random weights, drawn from the study's digest",
    "phantom": "pre-trained on synthetic lung CT, without any patient",
    "imagenet": "torchvision's ImageNet weights, from photographs, folded into frozen affine layers",
}


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


def preprocessing(images: Images) -> str:
    """From a hospital's image to what the network sees."""
    ct = images.ct
    patch = ""
    if ct is not None:
        planes = (
            f"{ct.slices} planes {ct.slice_distance_mm:g} mm apart"
            if ct.slice_distance_mm is not None
            else "the plane through it"
        )
        patch = (
            f"from a CT series the axial square of {ct.size_mm:g} mm about the finding, {planes}, "
            f"resampled, {ct.hu_low:g} to {ct.hu_high:g} HU as 0 to 1; of "
        )
    fitted = "centre crop" if images.fit == "crop" else "resizing"
    return (
        f"{patch}image files by {fitted}, scaled to 0..1; {images.channels} x {images.size} x "
        f"{images.size} pixels, then (value - {images.mean:g}) / {images.std:g}; all constants public, "
        f"none fitted"
    )


def initial_model(protocol: StudyProtocol) -> str:
    name = protocol.model.initial_model
    return f"{word(name)}: {ORIGINS.get(name, 'a file; what it was trained on is not known here')}"


def training(protocol: StudyProtocol) -> str:
    """The local work of a round, and what it adds up to."""
    local = protocol.training
    turned = "random flips and rotations" if local.flips_and_rotations else "no augmentation"
    return (
        f"{count(protocol.rounds, 'round')} of {count(local.steps_per_round, 'SGD step')} at each hospital, "
        f"learning rate {local.learning_rate:g}, momentum {local.momentum:g}; a patient is drawn with "
        f"probability {local.sampling_rate:g}, with up to {local.views_per_patient} images; {turned}"
    )


def aggregation(protocol: StudyProtocol) -> str:
    """The rule and its settings, under their names in the protocol."""
    settings = protocol.aggregation.model_dump(by_alias=True, exclude_none=True)
    quorum = protocol.participation.quorum
    said = ", ".join(f"{name} = {value}" for name, value in settings.items())
    return f"{said}; a round closes with at least {quorum} of {len(protocol.hospitals)} hospitals"


def inclusion(protocol: StudyProtocol) -> str:
    """Which CTs the study is meant for, under the protocol's own names."""
    if protocol.inclusion is None:
        return "no inclusion is stated"
    stated = protocol.inclusion.model_dump(by_alias=True, exclude_none=True, mode="json")
    said = ", ".join(f"{name} = {value}" for name, value in stated.items())
    return f"{word(said)}; a hospital is told what is outside, and nobody is excluded by it"


def software() -> str:
    """The program and the libraries that compute, with their versions."""
    return ", ".join(f"{name} {version(name)}" for name in ("intramural", "torch", "flwr"))


def positive(protocol: StudyProtocol) -> str:
    return f"“{word(protocol.images.classes[1])}”"


def task(protocol: StudyProtocol) -> str:
    """What the model tells apart, on what."""
    negative = f"“{word(protocol.images.classes[0])}”"
    return f"tell {positive(protocol)} from {negative} on lung-CT images about a given finding"


def metrics(protocol: StudyProtocol) -> tuple[str, ...]:
    """Which figures are stated, and how their intervals come about."""
    return (
        "AUROC, read from the sum of the hospitals' score histograms. Every patient counts once in each "
        "class. 95 % interval for noise and choice of patients together.",
        f"Operating point: the highest threshold between two bins with a sensitivity of at least "
        f"{WANTED_SENSITIVITY:.2f}, chosen on the patients that judge it.",
        f"Calibration at a prevalence of {100 * protocol.evaluation.prevalence:g} %: Brier score, "
        f"expected calibration error, share of positives by bin.",
        "Temperature: a score becomes a probability as sigmoid(logit(score) / temperature).",
    )


def evaluation_data(facts: ReportFacts) -> Iterator[str]:
    """Whose patients judged the model."""
    images = facts.protocol.images
    yield (
        f"{100 * images.validation_fraction:g} % of each hospital's patients by a hash of the patient "
        f"number, or those of the hospital's own list; they are never trained on. They come from the same "
        f"hospitals as the training patients."
    )
    if facts.judging is not None:
        released, held = facts.judging.released, facts.judging.suppressed
        yield (
            f"Of {len(facts.protocol.hospitals)} hospitals {len(released)} released a histogram of the "
            f"model{': ' * bool(released)}{named(released)}."
        )
        if held:
            yield (
                f"{named(held)}: fewer patients in a class than the hospital's own policy releases, which "
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


def figures_of(reading: Reading | None) -> dict[str, str]:
    """Every figure of a reading by its name, in words where there is none."""
    names = (
        "AUROC",
        "threshold",
        "sensitivity",
        "specificity",
        "Brier score",
        "calibration error",
        "temperature",
    )
    if reading is None:
        return dict.fromkeys(names, UNREADABLE)
    point, quality = reading.operating_point, reading.calibration
    temperature = reading.temperature
    error, noise = quality.expected_error, quality.brier_error
    return dict(
        zip(
            names,
            (
                interval(reading.auroc.value, reading.auroc.interval),
                "none between the bins" if point is None else f"{point.threshold:.3g}",
                "-"
                if point is None
                else interval(point.sensitivity.value, point.sensitivity.interval),
                "-"
                if point is None
                else interval(point.specificity.value, point.specificity.interval),
                f"{quality.brier:.3f}" + (f" ± {noise:.3f}" if noise else ""),
                "not above the noise" if error is None else f"{error:.3f}",
                "not known"
                if temperature is None
                else interval(temperature.value, temperature.interval),
            ),
            strict=True,
        )
    )


def interval(value: float, bounds: tuple[float, float] | None) -> str:
    """ "0.912 (0.871 to 0.946)"."""
    return f"{value:.3f}" + (f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else "")


def privacy_words(facts: ReportFacts) -> list[str]:
    """The privacy claim in short; where it is whole is said at its end."""
    asked = facts.protocol.privacy
    return [
        f"Unit: the patient, with all images, added or removed, over all rounds. Delta {small(asked.delta)}. "
        f"Agreed: epsilon {asked.epsilon:g} for training patients, {asked.validation_epsilon:g} for "
        f"validation patients, each at each hospital.",
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
        "How well it does at another hospital, on another scanner or in screening is not known. Judge it "
        "on patients of your own before anything else."
    )
    yield "The labels of the study are taken for the truth."
    yield "The threshold was chosen on the patients that judge it; on others it will do a little worse."
    if facts.private:
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
