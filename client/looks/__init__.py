"""A hospital's exact scores as pages and machines read them, by the kind of judge; nothing here leaves.

Each module is named after a module of `common.judging` and has what `Looking` says: a further task with a
known judge needs nothing here.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common.histogram import Interval
from common.judging.judge import Judge
from common.protocol import StudyProtocol


@dataclass(frozen=True, eq=False)
class Look:
    """What exact scores of `patients` say of a model.

    The judge's `figure`, such as "AUROC", has a `value` (None where it is not defined) and its 95 %
    `interval`. `headline`, title and text of `sections`, and `limits` are ready HTML, `facts` the figures
    for machines. Groups of patients that are too small for the site policy are in neither.
    """

    patients: int
    figure: str
    value: float | None
    interval: Interval | None
    headline: str
    sections: Sequence[tuple[str, str]]
    limits: Sequence[str]
    facts: Mapping[str, Any]


class Looking(Protocol):
    """What words the scores of one kind of judge."""

    def look(self, scores: Any, protocol: StudyProtocol | None, smallest: int) -> Look:
        """`scores` as the judge keeps them; of groups of patients none below `smallest` is shown.

        `protocol` is None where the study's text was not kept; ProtocolError where it takes one.
        """


def look_of(judge: Judge[Any], scores: Any, protocol: StudyProtocol | None, smallest: int) -> Look:
    """See `Looking`."""
    kind = type(judge).__module__.rpartition(".")[2]
    looking: Looking = importlib.import_module(f"client.looks.{kind}")
    return looking.look(scores, protocol, smallest)
