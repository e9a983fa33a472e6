"""What a run hands to the report: plain facts, nothing computed here.

Numbers that are not known are None; the report says in words why. A discrimination is the figure that the
study's judge names (AUROC, concordance index), 0..1 with chance at 0.5; times are seconds, intervals are
(low, high) at 95 %. Where the study's task has no judge none of them is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.arrays import Arrays
from common.histogram import Estimate, Interval
from common.judging.judge import Reading
from common.protocol import StudyProtocol
from common.tasks import task_of
from server.checkpoint import RoundRecord
from server.gain import Gain, Pooled


@dataclass(frozen=True)
class RoundFacts:
    """One server round: who took part, and how good the model was that came out of it.

    A hospital that was asked is in exactly one of `answered`, `refused` (hospital -> wire code)
    and `missing` (no reply before the deadline). `discrimination` with `interval` is exact, on
    the validation patients of all hospitals, and known in a rehearsal only; `released_discrimination` is
    read from the noised histograms. Both are None where the protocol does not evaluate the model, the
    second also with too few patients to say.
    """

    round: int
    seconds: float
    answered: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    discrimination: float | None = None
    interval: Interval | None = None
    released_discrimination: Estimate | None = None
    suppressed: tuple[str, ...] = ()
    late: Mapping[str, int] = field(default_factory=dict)
    duplicates: Mapping[str, int] = field(default_factory=dict)
    policies: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def released(self) -> tuple[str, ...]:
        """Who released a histogram, in a round that evaluates."""
        return tuple(name for name in self.answered if name not in self.suppressed)

    @classmethod
    def of(cls, record: RoundRecord, **judged: Any) -> "RoundFacts":
        """What `record` says of its round, and how the model was `judged` that came out of it."""
        return cls(
            round=record.round,
            seconds=record.seconds,
            answered=tuple(record.answered),
            refused=record.refused,
            missing=tuple(record.missing),
            suppressed=tuple(record.suppressed),
            late=record.late,
            duplicates=record.duplicates,
            policies=record.policies,
            flags=record.flags,
            **judged,
        )


@dataclass(frozen=True)
class HospitalFacts:
    """One hospital at the end: the final model on its own validation patients, and its spend.

    `local_only` and `local_only_pooled` are the discrimination of a model trained by this hospital
    alone, on its own and on all hospitals' validation patients; both None when it was not trained.
    `scores` are the judge's exact ones of the final model, in a rehearsal only.
    `epsilon`, of the training patients, is the larger of what `accountant` and `second_accountant`
    say; `noise_multiplier` (noise std / clipping norm) is this hospital's own. The validation
    patients have released `histograms` histograms, each with noise of standard deviation
    `validation_noise` in a cell, at `validation_epsilon` in all.
    """

    name: str
    nominal_patients: int
    validation_patients: int | None = None
    discrimination: float | None = None
    interval: Interval | None = None
    local_only: float | None = None
    local_only_pooled: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    accountant: str | None = None
    noise_multiplier: float | None = None
    second_accountant: str | None = None
    validation_epsilon: float | None = None
    validation_noise: float | None = None
    histograms: int | None = None
    scores: Any = field(default=None, repr=False, compare=False)

    @property
    def vague(self) -> bool:
        """Whether its discrimination says little: there is no interval, or a very wide one."""
        if self.discrimination is None:
            return False
        return self.interval is None or self.interval[1] - self.interval[0] > TOO_WIDE


UNREADABLE = "too few patients to say"
FEW_TRAINING, FEW_VALIDATION = 20, 10  # patients; below, plain words are due
TOO_WIDE = 0.5  # width of a 95 % interval of a discrimination from which on it says little


@dataclass(frozen=True)
class PooledFacts:
    """The final model on the validation patients of all hospitals together, exact.

    `scores` are those of the study's judge; `unnoised` is what the released histogram would say without
    its noise, None when there are too few patients to say.
    """

    discrimination: float | None
    interval: Interval | None
    unnoised: Reading | None = None
    scores: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ReportFacts:
    """A whole run. `backend` is "deployment", or how the rehearsal was run ("local", "ray").

    `stopped` says in words why the run ended. `pooled` and `zero_shot` (the initial model's
    discrimination, before round 1) are exact and None in a deployment, where exact scores stay in the
    hospitals. `released` is read from the noised histograms of the same model as `pooled`; None when there
    are too few patients to say. That model is the one after round `judged_after`: the final one, unless
    the run ended early between two evaluations, and `judging` is the round that released its
    histograms. `closing` is what came after the last of `rounds`: the final evaluation, or a round that
    could not be closed.
    `gains` is what each hospital has from joining, `pooled_baseline` what one model of all patients in one
    place reaches; both need exact scores, the first local-only models too and the second that model.
    `result` is the model that the run leaves, for a task whose model is itself what is to be reported; empty
    until the run is finished.
    `noise_seeded` is true when any noise came from a known seed (test mode): it can be subtracted.
    """

    protocol: StudyProtocol
    backend: str
    stopped: str
    rounds: tuple[RoundFacts, ...]
    hospitals: tuple[HospitalFacts, ...]
    noise_seeded: bool
    zero_shot: float | None = None
    pooled: PooledFacts | None = None
    released: Reading | None = None
    judged_after: int | None = None
    gains: tuple[Gain, ...] = ()
    pooled_baseline: Pooled | None = None
    judging: RoundFacts | None = None
    closing: RoundFacts | None = None
    result: Arrays = field(default_factory=dict, repr=False, compare=False)

    @property
    def heard(self) -> tuple[RoundFacts, ...]:
        """All in which hospitals were asked: the rounds, and what came after them."""
        return self.rounds if self.closing is None else (*self.rounds, self.closing)

    @property
    def rehearsal(self) -> bool:
        """Whether hospitals were simulated; an unknown backend counts as one (claims less)."""
        return self.backend != "deployment"

    @property
    def private(self) -> bool:
        """Whether the protocol asked for differential privacy."""
        return self.protocol.privacy.mechanism != "none"

    @property
    def figure(self) -> str | None:
        """What the discrimination is called; None where nothing is judged."""
        judge = task_of(self.protocol).judge
        return None if judge is None else judge.figure

    def small_cohorts(self) -> list[str]:
        """A plain sentence for each hospital with too few patients to teach or to be judged."""
        said = []
        for hospital in self.hospitals:
            if self.private and hospital.nominal_patients < FEW_TRAINING:
                said.append(
                    f"{hospital.name} has {hospital.nominal_patients} training patients: under this "
                    f"privacy its update is mostly noise, so it takes from the others and gives "
                    f"next to nothing."
                )
            seen = hospital.validation_patients
            if self.figure is not None and seen is not None and seen < FEW_VALIDATION:
                said.append(
                    f"{hospital.name} has {seen} validation patient{'' if seen == 1 else 's'}: its "
                    f"own {self.figure} says little; look at the pooled one."
                )
            elif self.figure is not None and seen is not None and hospital.vague:
                said.append(
                    f"{hospital.name} has {seen} validation patients but too few pairs to compare among "
                    f"them: its own {self.figure} says little; look at the pooled one."
                )
        return said
