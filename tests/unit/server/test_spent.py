"""Epsilon as hospitals state it, against the hospital's own two accountants."""

from typing import Any

import pytest

from client.ledger import Spend
from client.privacy.accounting import epsilon_of
from common.protocol import StudyProtocol
from server.checkpoint import RoundRecord
from server.spent import epsilon_stated
from tests.answering import MakeStudy

pytestmark = pytest.mark.slow


def record(server_round: int, noise: dict[str, float]) -> RoundRecord:
    empty: dict[str, Any] = {"seconds": 1.0, "refused": {}, "missing": [], "late": {}, "heads": {}}
    return RoundRecord(
        round=server_round,
        answered=sorted(noise),
        noise=noise,
        histogram=None,
        histogram_noise=None,
        **empty,
    )


@pytest.fixture
def study(make_study: MakeStudy) -> StudyProtocol:
    training = {"steps-per-round": 4, "learning-rate": 0.1, "sampling-rate": 0.5}
    return make_study(rounds=10, training=training)


def test_it_is_what_the_hospitals_accountants_say(study: StudyProtocol) -> None:
    records = [record(n, {"north": 2.0} | ({"east": 3.0} if n % 2 else {})) for n in range(1, 11)]
    for name, noise, rounds in (("north", 2.0, 10), ("east", 3.0, 5)):
        own = epsilon_of([Spend(noise, 0.5, 4)] * rounds, study.privacy.delta)
        stated = epsilon_stated(study, records, name)
        assert stated == pytest.approx(own.value, rel=0.01)


def test_noise_that_changed_is_composed(study: StudyProtocol) -> None:
    records = [record(1, {"north": 2.0}), record(2, {"north": 4.0})]
    own = epsilon_of([Spend(2.0, 0.5, 4), Spend(4.0, 0.5, 4)], study.privacy.delta)
    assert epsilon_stated(study, records, "north") == pytest.approx(own.value, rel=0.01)


def test_its_edges(study: StudyProtocol, make_study: MakeStudy) -> None:
    records = [record(1, {"north": 0.0})]
    assert epsilon_stated(study, records, "east") == 0.0
    assert epsilon_stated(study, records, "north") == float("inf")
    open_study = make_study(privacy={"mechanism": "none"})
    assert epsilon_stated(open_study, records, "north") is None
