"""One reply is used or refused with a code; the table has everything that a hospital might send."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common import messages
from common.arrays import Arrays, Spec
from common.errors import BudgetError
from common.messages import (
    LARGEST_VALUE,
    EvaluateReply,
    EvaluateRequest,
    HelloReply,
    Message,
    Refusal,
    TrainReply,
    TrainRequest,
    fingerprint,
)
from common.model_spec import model_spec, update_spec
from common.protocol import StudyProtocol
from server.admission import NotAdmitted, Past, Question, Reply, admit

MakeStudy = Callable[..., StudyProtocol]

STUDY = "a" * 64
SPEC = {"z.weight": (2, 3), "a.bias": (4,)}
ROW = tuple(float(n) - 0.5 for n in range(messages.HISTOGRAM_BINS))


def model(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SPEC.items()}


TRAIN = TrainRequest(protocol="study", round=2, arrays=model())
EVALUATE = EvaluateRequest(protocol="study", round=4, arrays=model())


def head(n: int) -> str:
    """The ledger's head under a hospital's n-th answer."""
    return f"{n:064x}"


def question(request: TrainRequest | EvaluateRequest, *, evaluates: bool = True) -> Question:
    return Question(request, fingerprint(request), STUDY, SPEC, evaluates)


TRAINING, EVALUATION = question(TRAIN), question(EVALUATE)
UNJUDGED = question(TRAIN, evaluates=False)  # a round in which the protocol does not evaluate

ANSWER: dict[str, Any] = {
    "study": STUDY,
    "ledger_head": head(1),
    "previous_head": None,
    "histogram": (ROW, ROW),
    "histogram_noise": 2.5,
}


def reply(**changes: object) -> TrainReply:
    asked = {"round": 2, "request": fingerprint(TRAIN)}
    made = {"noise_multiplier": 0.8, "arrays": model(1)}
    return TrainReply.model_validate({**ANSWER, **asked, **made, **changes})


def score(**changes: object) -> EvaluateReply:
    asked = {"round": 4, "request": fingerprint(EVALUATE)}
    return EvaluateReply.model_validate({**ANSWER, **asked, **changes})


def silent(**changes: object) -> TrainReply:
    """An honest reply of a round that does not evaluate."""
    return reply(**{"histogram": None, "histogram_noise": None, **changes})


NEW = Past()  # nothing is known of the hospital yet


def code_of(message: Message, asked: Question, past: Past = NEW) -> str:
    """The code with which `message` is refused."""
    with pytest.raises(NotAdmitted) as caught:
        admit(message, asked, past)
    assert str(caught.value) == caught.value.code
    return caught.value.code


def uneven(good: TrainReply) -> TrainReply:
    """What no frame can say and a caller could."""
    return good.model_copy(update={"histogram": (ROW, ROW[1:])})


def put(name: str, array: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    return {**model(1), name: array}


def with_value(value: float) -> dict[str, NDArray[np.generic]]:
    array = model(1)["z.weight"]
    array[1, 2] = value
    return put("z.weight", array)


def with_cell(cell: float) -> tuple[tuple[float, ...], ...]:
    return ((cell, *ROW[1:]), ROW)


def test_good_replies_are_admitted_as_they_are() -> None:
    good = reply()
    assert admit(good, TRAINING, NEW) is good
    scored = score()
    assert admit(scored, EVALUATION, NEW) is scored
    unjudged = silent()
    assert admit(unjudged, UNJUDGED, NEW) is unjudged


def test_what_noise_and_rounding_do_to_an_honest_reply_is_admitted() -> None:
    """Negative cells, a zero update, the bound itself, and values that a large model may have."""
    for arrays in (with_value(LARGEST_VALUE), with_value(-1e6), with_value(1e-45)):
        admit(reply(arrays=arrays), TRAINING, NEW)
    zero = {name: np.zeros(shape, np.float32) for name, shape in SPEC.items()}
    admit(reply(arrays=zero), TRAINING, NEW)
    for cell in (-1234.5, 0.0, LARGEST_VALUE, -LARGEST_VALUE):
        admit(reply(histogram=with_cell(cell)), TRAINING, NEW)
    for noise in (0.0, 1e-3, 100.0):
        admit(reply(histogram_noise=noise, noise_multiplier=noise), TRAINING, NEW)


BAD: dict[str, tuple[Callable[[], Message], str]] = {
    "a refusal": (lambda: Refusal.of(BudgetError("4711 is over")), "E-POLICY-BUDGET"),
    "a refusal's own code": (lambda: Refusal(code="E-SITE-CLOSED", text=""), "E-SITE-CLOSED"),
    "a hello": (lambda: HelloReply(hospital="north"), "E-REPLY-KIND"),
    "a request": (lambda: TRAIN, "E-REPLY-KIND"),
    "an evaluation": (lambda: score(round=2, request=fingerprint(TRAIN)), "E-REPLY-KIND"),
    "another study": (lambda: reply(study="b" * 64), "E-REPLY-STUDY"),
    "an earlier round": (lambda: reply(round=1), "E-REPLY-LATE"),
    "a later round": (lambda: reply(round=3), "E-REPLY-LATE"),
    "another request": (lambda: reply(request="c" * 64), "E-REPLY-REQUEST"),
    "a missing array": (lambda: reply(arrays={"z.weight": model()["z.weight"]}), "E-REPLY-ARRAYS"),
    "no arrays": (lambda: reply(arrays={}), "E-REPLY-ARRAYS"),
    "an extra array": (
        lambda: reply(arrays=put("extra", np.zeros(1, np.float32))),
        "E-REPLY-ARRAYS",
    ),
    "a renamed array": (
        lambda: reply(arrays={"z.weight": model()["z.weight"], "A.bias": model()["a.bias"]}),
        "E-REPLY-ARRAYS",
    ),
    "another order": (lambda: reply(arrays=dict(sorted(model().items()))), "E-REPLY-ARRAYS"),
    "another shape": (
        lambda: reply(arrays=put("a.bias", np.zeros(5, np.float32))),
        "E-REPLY-ARRAYS",
    ),
    "broadcastable": (
        lambda: reply(arrays=put("a.bias", np.zeros(1, np.float32))),
        "E-REPLY-ARRAYS",
    ),
    "a row for a matrix": (
        lambda: reply(arrays=put("z.weight", np.zeros(3, np.float32))),
        "E-REPLY-ARRAYS",
    ),
    "a number": (lambda: reply(arrays=put("a.bias", np.zeros((), np.float32))), "E-REPLY-ARRAYS"),
    "float64": (lambda: reply(arrays=put("a.bias", np.zeros(4))), "E-REPLY-ARRAYS"),
    "float16": (lambda: reply(arrays=put("a.bias", np.zeros(4, np.float16))), "E-REPLY-ARRAYS"),
    "integers": (lambda: reply(arrays=put("a.bias", np.zeros(4, np.int32))), "E-REPLY-ARRAYS"),
    "NaN": (lambda: reply(arrays=with_value(np.nan)), "E-REPLY-ARRAYS"),
    "infinity": (lambda: reply(arrays=with_value(np.inf)), "E-REPLY-ARRAYS"),
    "minus infinity": (lambda: reply(arrays=with_value(-np.inf)), "E-REPLY-ARRAYS"),
    "a huge value": (lambda: reply(arrays=with_value(1e30)), "E-REPLY-SIZE"),
    "a huge negative value": (lambda: reply(arrays=with_value(-3e38)), "E-REPLY-SIZE"),
    "just too large": (lambda: reply(arrays=with_value(LARGEST_VALUE * 1.001)), "E-REPLY-SIZE"),
    "too few bins": (lambda: reply(histogram=(ROW[1:], ROW[1:])), "E-REPLY-HISTOGRAM"),
    "too many bins": (lambda: reply(histogram=(ROW * 2, ROW * 2)), "E-REPLY-HISTOGRAM"),
    "uneven bins": (lambda: uneven(reply()), "E-REPLY-HISTOGRAM"),
    "no bins": (lambda: reply(histogram=((), ())), "E-REPLY-HISTOGRAM"),
    "a huge cell": (lambda: reply(histogram=with_cell(1e38)), "E-REPLY-HISTOGRAM"),
    "a huge negative cell": (lambda: reply(histogram=with_cell(-1e30)), "E-REPLY-HISTOGRAM"),
    # The next single-precision number above 1e9.
    "cell too large": (lambda: reply(histogram=with_cell(LARGEST_VALUE + 64)), "E-REPLY-HISTOGRAM"),
    "no histogram": (lambda: silent(), "E-REPLY-HISTOGRAM"),
    "no histogram but its noise": (lambda: reply(histogram=None), "E-REPLY-HISTOGRAM"),
    "a histogram of unsaid noise": (lambda: reply(histogram_noise=None), "E-REPLY-HISTOGRAM"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_refused_with_its_code(case: str) -> None:
    bad, code = BAD[case]
    assert code_of(bad(), TRAINING) == code


@pytest.mark.parametrize("case", [case for case in BAD if BAD[case][1] != "E-REPLY-HISTOGRAM"])
def test_it_is_refused_with_the_same_code_where_the_protocol_does_not_evaluate(case: str) -> None:
    bad, code = BAD[case]
    message = bad()
    if isinstance(message, TrainReply):
        message = message.model_copy(update={"histogram": None, "histogram_noise": None})
    assert code_of(message, UNJUDGED) == code


@pytest.mark.parametrize(
    "changes",
    [
        {"histogram": (ROW, ROW), "histogram_noise": 2.5},
        {"histogram": (ROW, ROW)},
        {"histogram_noise": 2.5},
        {"histogram_noise": 0.0},
        {"histogram": ((0.0,) * 16, (0.0,) * 16)},
    ],
)
def test_a_histogram_that_was_not_asked_for_is_refused(changes: dict[str, Any]) -> None:
    """It would have been paid for from the validation account, or not at all."""
    assert code_of(silent(**changes), UNJUDGED) == "E-REPLY-HISTOGRAM"


BAD_SCORES: dict[str, tuple[Callable[[], Message], str]] = {
    "a refusal": (lambda: Refusal.of(BudgetError()), "E-POLICY-BUDGET"),
    "an update": (lambda: reply(round=4, request=fingerprint(EVALUATE)), "E-REPLY-KIND"),
    "another study": (lambda: score(study="b" * 64), "E-REPLY-STUDY"),
    "an earlier round": (lambda: score(round=3), "E-REPLY-LATE"),
    "another request": (lambda: score(request=fingerprint(TRAIN)), "E-REPLY-REQUEST"),
    "too few bins": (lambda: score(histogram=(ROW[1:], ROW[1:])), "E-REPLY-HISTOGRAM"),
    "a huge cell": (lambda: score(histogram=with_cell(1e38)), "E-REPLY-HISTOGRAM"),
    "unsaid noise": (lambda: score(histogram_noise=None), "E-REPLY-HISTOGRAM"),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_a_bad_answer_to_an_evaluation_is_refused_with_its_code(case: str) -> None:
    bad, code = BAD_SCORES[case]
    assert code_of(bad(), EVALUATION) == code


def test_a_reply_to_the_same_round_with_another_model_is_refused() -> None:
    """Round and study agree; only the fingerprint of the request tells them apart."""
    other = TRAIN.model_copy(update={"arrays": model(7)})
    assert code_of(reply(request=fingerprint(other)), TRAINING) == "E-REPLY-REQUEST"


# --- the chain of ledger heads -----------------------------------------------------------------

SEEN = (head(1), head(2), head(3), head(4))


@pytest.mark.parametrize("make", [reply, score])
@pytest.mark.parametrize(
    ("seen", "previous", "admitted", "after_a_rollback"),
    [
        ((), None, True, True),  # the hospital's first answer
        ((), head(7), True, True),  # its ledger knows of answers that were lost on the way
        (SEEN, head(4), True, True),  # follows on the last that was seen: the right ledger is back
        (SEEN, head(9), True, False),  # follows on an answer that was lost, or on what was refused
        (SEEN[:1], head(1), True, True),
        (SEEN[:1], head(9), True, False),
        (SEEN, head(3), False, False),  # restored from a backup: what came after is forgotten
        (SEEN, head(2), False, False),
        (SEEN, head(1), False, False),
        (SEEN, None, False, False),  # made anew
        (SEEN[:1], None, False, False),
        (SEEN[:2], head(1), False, False),
        (SEEN[:2], head(2), True, True),
    ],
)
def test_a_ledger_that_was_set_back_is_noticed(
    make: Callable[..., Reply],
    seen: tuple[str, ...],
    previous: str | None,
    admitted: bool,
    after_a_rollback: bool,
) -> None:
    answer = make(ledger_head=head(5), previous_head=previous)
    asked = TRAINING if make is reply else EVALUATION
    for set_back, expected in ((False, admitted), (True, after_a_rollback)):
        past = Past(seen, set_back)
        assert past.continued_by(previous) is expected
        if expected:
            assert admit(answer, asked, past) is answer
        else:
            assert code_of(answer, asked, past) == "E-REPLY-ROLLBACK"


def test_a_rollback_is_named_before_what_the_update_holds_and_after_whose_it_is() -> None:
    """Which code is counted when several fit: the one that says most about what happened."""
    past = Past(SEEN)
    back: dict[str, Any] = {"previous_head": None}
    assert code_of(reply(**back, arrays={}), TRAINING, past) == "E-REPLY-ROLLBACK"
    assert code_of(reply(**back, study="b" * 64), TRAINING, past) == "E-REPLY-STUDY"
    assert code_of(reply(**back, round=1), TRAINING, past) == "E-REPLY-LATE"
    assert code_of(reply(**back, request="c" * 64), TRAINING, past) == "E-REPLY-REQUEST"
    assert code_of(silent(**back), UNJUDGED, past) == "E-REPLY-ROLLBACK"
    assert code_of(Refusal.of(BudgetError()), TRAINING, past) == "E-POLICY-BUDGET"


# --- what is frozen does not travel ------------------------------------------------------------


def filled(spec: Spec) -> Arrays:
    return {name: np.full(shape, 0.25, np.float32) for name, shape in spec.items()}


@pytest.mark.parametrize("trainable", ["head", "norm-and-head"])
def test_an_update_with_an_array_that_is_not_trained_is_refused(
    trainable: str, make_study: MakeStudy
) -> None:
    protocol = make_study(model={"trainable": trainable})
    trained, whole = update_spec(protocol), model_spec(protocol)
    asked = Question(TRAIN, fingerprint(TRAIN), STUDY, trained, evaluates=True)
    good = reply(arrays=filled(trained))
    assert admit(good, asked, NEW) is good
    assert code_of(reply(arrays=filled(whole)), asked) == "E-REPLY-ARRAYS"
    for trunk in [name for name in whole if name not in trained]:
        extra = {name: s for name, s in whole.items() if name in trained or name == trunk}
        assert code_of(reply(arrays=filled(extra)), asked) == "E-REPLY-ARRAYS"
    for missing in trained:
        fewer = {name: shape for name, shape in trained.items() if name != missing}
        assert code_of(reply(arrays=filled(fewer)), asked) == "E-REPLY-ARRAYS"


def test_what_is_admitted_stays_finite_in_sums_and_squares() -> None:
    """The bound is worth something only if Flower's float32 arithmetic survives it."""
    edge = np.full(1000, LARGEST_VALUE, np.float32)
    with np.errstate(all="raise"):
        assert np.isfinite(np.square(edge).sum())
        assert np.isfinite(edge * np.float32(1e5)).all()
        assert np.isfinite(sum([LARGEST_VALUE] * 10_000))
