"""The study protocol of a survival: which records, which times and events, which model of the hazard."""

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from common.documents import Title
from common.protocol import Evaluation, Model, Section, Training
from common.tabular.schema import Column, Records, Unit
from common.tabular.task import TableStudy

ModelName = Literal["cox-breslow", "cox-efron", "proportional-hazards", "discrete-time"]

WITHOUT_BASELINE: tuple[ModelName, ...] = ("cox-breslow", "cox-efron")
"""They rank patients and predict no survival; their loss mixes patients."""

MOST_TIME = 1e6  # in the study's unit: 2,700 years in days


class FollowUp(Section):
    """What happened to a patient and when: the columns `time`, in `unit`, and `event`.

    `events` are the two values of `event`: not seen to happen until then, and happened. `edges` end the
    intervals in which hazards are constant or counted, from 0 on; what comes after the last edge is not
    judged. All are public.
    """

    time: Title = "time"
    event: Title = "event"
    unit: Unit = "days"
    events: Annotated[tuple[Title, Title], Field(strict=False)] = ("0", "1")
    edges: Annotated[
        tuple[Annotated[float, Field(gt=0, le=MOST_TIME)], ...],
        Field(strict=False, min_length=1, max_length=200),
    ]

    @model_validator(mode="after")
    def _rising(self) -> "FollowUp":
        for low, high in pairwise((0.0, *self.edges)):
            # Training and judging have them as float32, in which an interval must not be empty.
            if np.float32(high) <= np.float32(low):
                raise ValueError(f"survival.edges must rise, and {high:.9g} comes after {low:.9g}")
        return self

    @property
    def label_columns(self) -> tuple[Column, Column]:
        """Time and event, read like any other column; a time outside of 0..1,000,000 is an error."""
        return (
            Column(name=self.time, kind="number", unit=self.unit, range=(0.0, MOST_TIME)),
            Column(name=self.event, kind="category", categories=self.events),
        )


class SurvivalModel(Model):
    """A model of the hazard and where round 1 starts: its own start ("random") or a file.

    "cox-breslow" and "cox-efron" are Cox' partial likelihood over a hospital's drawn patients, and
    "proportional-hazards" its separable form with a baseline hazard for each interval, which
    differential privacy can clip by patient. "discrete-time" has the odds of an event in each
    interval, linear, or with a layer of `hidden` units.
    """

    name: ModelName = "proportional-hazards"
    hidden: Annotated[int, Field(ge=1, le=4096)] | None = None

    @model_validator(mode="after")
    def _hidden_for_a_network(self) -> "SurvivalModel":
        if self.hidden is not None and self.name != "discrete-time":
            raise ValueError(f"model.hidden is for 'discrete-time', but name is '{self.name}'")
        return self


class SurvivalTraining(Training):
    """Local work of one server round. A patient has one record: what happened happened once."""

    views_per_patient: Literal[1] = 1


class SurvivalStudy(TableStudy):
    """A study that predicts from a patient's record when an event comes."""

    task: Literal["survival"]
    survival: FollowUp
    model: SurvivalModel = SurvivalModel()
    training: SurvivalTraining
    without_dp: SurvivalTraining | None = None
    evaluation: Evaluation = Evaluation()

    @property
    def data(self) -> "SurvivalData":
        """The records with their follow-up."""
        return SurvivalData(records=self.records, survival=self.survival)

    @property
    def ranks_only(self) -> bool:
        """Whether the model ranks patients and predicts no survival: it has no baseline hazard."""
        return self.model.name in WITHOUT_BASELINE

    @model_validator(mode="after")
    def _separable_under_privacy(self) -> "SurvivalStudy":
        if self.privacy.mechanism != "none" and self.ranks_only:
            raise ValueError(
                f"model.name '{self.model.name}' compares patients within a batch, which clipping by "
                f"patient cannot bound; take 'proportional-hazards' or 'discrete-time', or "
                f"privacy.mechanism 'none' in a rehearsal"
            )
        return self

    @model_validator(mode="after")
    def _other_columns(self) -> "SurvivalStudy":
        taken = {*self.records.named_columns, *(column.name for column in self.records.columns)}
        for name in (self.survival.time, self.survival.event):
            if name in taken or self.survival.time == self.survival.event:
                raise ValueError(f"survival and records both name the column '{name}'")
        return self


class SurvivalData(Section):
    """All that says how a hospital's table is read."""

    records: Records
    survival: FollowUp

    @property
    def validation_fraction(self) -> float:
        """As the records say."""
        return self.records.validation_fraction

    @property
    def split(self) -> str | None:
        """As the records say."""
        return self.records.split
