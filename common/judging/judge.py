"""What judges a model: exact scores of patients -> figures, and a histogram to be noised -> figures.

A judge's discrimination is a probability of ranking two patients the right way round: 0..1, chance 0.5.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.histogram import Estimate, Floats, Interval
from common.protocol import StudyProtocol
from common.tasks import Release

if TYPE_CHECKING:
    from common.clinical.delong import Difference  # SciPy stays out of who only parses a protocol

Columns = Mapping[str, NDArray[Any]]


class Reading(Protocol):
    """What a released histogram says, whatever else it does: the discrimination with its interval."""

    @property
    def discrimination(self) -> Estimate: ...


J = TypeVar("J")


class Judge(ABC, Generic[J]):
    """`J` are exact scores of patients with the truth; they stay with whoever holds the patients.

    `figure` names the discrimination in words, `key` in files for machines; `release` is the name under
    which a site policy allows the histogram, `cells` says in words what the histogram counts and `each`
    what it counts apart, so that none may be small (see `groups`).
    """

    figure: ClassVar[str]
    key: ClassVar[str]
    release: ClassVar[Release]
    cells: ClassVar[str]
    each: ClassVar[str]

    @abstractmethod
    def scores(
        self,
        protocol: StudyProtocol,
        outputs: Floats,
        labels: NDArray[Any],
        patient: NDArray[np.int64],
        groups: Columns,
    ) -> J:
        """From a task's predictions (n, k) for n views; (0, 0) where there are none.

        labels: (n, ...); patient: (n,) ordinals. `groups` are further (n,) ordinals that the data know.
        What a model says that is not finite is mapped to a score that says nothing: one broken view
        must not decide what is released.
        """

    @abstractmethod
    def columns(self, scores: J) -> Columns:
        """The scores as named arrays of n rows, to be kept in a file."""

    @abstractmethod
    def of_columns(self, columns: Columns) -> J:
        """What `columns` made; DataError or KeyError for anything else."""

    @abstractmethod
    def concatenate(self, parts: Sequence[J]) -> J:
        """All patients of `parts`, one a hospital; equal ordinals of two parts stay two patients."""

    @abstractmethod
    def patients(self, scores: J) -> int:
        """Number of different patients."""

    @abstractmethod
    def groups(self, scores: J) -> tuple[int, ...]:
        """Patients in each group of which none may be small in a release (the site policy says how)."""

    @abstractmethod
    def groups_of(
        self, protocol: StudyProtocol, labels: NDArray[Any], patient: NDArray[np.int64]
    ) -> tuple[int, ...]:
        """The same before any model has said anything: labels (n, ...), patient (n,) ordinals."""

    @abstractmethod
    def bins(self, protocol: StudyProtocol) -> int:
        """Cells in each of the two rows of the released histogram: public, from the protocol alone."""

    @abstractmethod
    def histogram(self, protocol: StudyProtocol, scores: J) -> Floats:
        """(2, bins), exact: patients without (row 0) and with the event or the positive class (row 1).

        Adding or removing a patient changes it by at most 1 in L2. Private: noise it first.
        """

    @abstractmethod
    def discrimination(self, scores: J) -> float | None:
        """Of exact scores; None where they do not say it (one class only, no event)."""

    @abstractmethod
    def interval(self, scores: J) -> Interval | None:
        """95 %, over patients."""

    @abstractmethod
    def difference(self, ours: J, theirs: J) -> "Difference | None":
        """Ours less theirs, of two models on the same patients in the same order."""

    @abstractmethod
    def read(
        self,
        protocol: StudyProtocol,
        histogram: ArrayLike,
        noise_std: float,
        others: Sequence[ArrayLike] = (),
    ) -> Reading | None:
        """What a histogram with noise `noise_std` in a cell says; None where noise leaves nothing.

        `others` are those of the same patients under other models of the study.
        """
