"""One reply is used or refused with a code; the table has everything that a hospital might send."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from common import messages
from common.arrays import Arrays
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
from server.admission import NotAdmitted, admit

STUDY = "a" * 64
SPEC = {"z.weight": (2, 3), "a.bias": (4,)}
ROW = tuple(float(n) - 0.5 for n in range(messages.HISTOGRAM_BINS))


def model(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SPEC.items()}


TRAIN = TrainRequest(protocol="study", round=2, arrays=model())
EVALUATE = EvaluateRequest(protocol="study", round=4, arrays=model())
TRAIN_KEY, EVALUATE_KEY = fingerprint(TRAIN), fingerprint(EVALUATE)


def reply(**changes: object) -> TrainReply:
    good = {
        "study": STUDY,
        "round": 2,
        "request": fingerprint(TRAIN),
        "histogram": (ROW, ROW),
        "arrays": model(1),
    }
    return TrainReply.model_validate({**good, **changes})


def score(**changes: object) -> EvaluateReply:
    good = {"study": STUDY, "round": 4, "request": fingerprint(EVALUATE), "histogram": (ROW, ROW)}
    return EvaluateReply.model_validate({**good, **changes})


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
    assert admit(good, TRAIN, TRAIN_KEY, STUDY, SPEC) is good
    scored = score()
    assert admit(scored, EVALUATE, EVALUATE_KEY, STUDY, SPEC) is scored


def test_what_noise_and_rounding_do_to_an_honest_reply_is_admitted() -> None:
    """Negative cells, a zero update, the bound itself, and values that a large model may have."""
    for arrays in (with_value(LARGEST_VALUE), with_value(-1e6), with_value(1e-45)):
        admit(reply(arrays=arrays), TRAIN, TRAIN_KEY, STUDY, SPEC)
    zero = {name: np.zeros(shape, np.float32) for name, shape in SPEC.items()}
    admit(reply(arrays=zero), TRAIN, TRAIN_KEY, STUDY, SPEC)
    for cell in (-1234.5, 0.0, LARGEST_VALUE, -LARGEST_VALUE):
        admit(reply(histogram=with_cell(cell)), TRAIN, TRAIN_KEY, STUDY, SPEC)


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
    "uneven bins": (lambda: reply(histogram=(ROW, ROW[1:])), "E-REPLY-HISTOGRAM"),
    "no bins": (lambda: reply(histogram=((), ())), "E-REPLY-HISTOGRAM"),
    "a huge cell": (lambda: reply(histogram=with_cell(1e308)), "E-REPLY-HISTOGRAM"),
    "a huge negative cell": (lambda: reply(histogram=with_cell(-1e300)), "E-REPLY-HISTOGRAM"),
    "cell too large": (lambda: reply(histogram=with_cell(LARGEST_VALUE + 1)), "E-REPLY-HISTOGRAM"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_refused_with_its_code(case: str) -> None:
    bad, code = BAD[case]
    with pytest.raises(NotAdmitted) as caught:
        admit(bad(), TRAIN, TRAIN_KEY, STUDY, SPEC)
    assert caught.value.code == code
    assert str(caught.value) == code


BAD_SCORES: dict[str, tuple[Callable[[], Message], str]] = {
    "a refusal": (lambda: Refusal.of(BudgetError()), "E-POLICY-BUDGET"),
    "an update": (lambda: reply(round=4, request=fingerprint(EVALUATE)), "E-REPLY-KIND"),
    "another study": (lambda: score(study="b" * 64), "E-REPLY-STUDY"),
    "an earlier round": (lambda: score(round=3), "E-REPLY-LATE"),
    "another request": (lambda: score(request=fingerprint(TRAIN)), "E-REPLY-REQUEST"),
    "too few bins": (lambda: score(histogram=(ROW[1:], ROW)), "E-REPLY-HISTOGRAM"),
    "a huge cell": (lambda: score(histogram=with_cell(1e308)), "E-REPLY-HISTOGRAM"),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_a_bad_answer_to_an_evaluation_is_refused_with_its_code(case: str) -> None:
    bad, code = BAD_SCORES[case]
    with pytest.raises(NotAdmitted) as caught:
        admit(bad(), EVALUATE, EVALUATE_KEY, STUDY, SPEC)
    assert caught.value.code == code


def test_a_reply_to_the_same_round_with_another_model_is_refused() -> None:
    """Round and study agree; only the fingerprint of the request tells them apart."""
    other = TRAIN.model_copy(update={"arrays": model(7)})
    with pytest.raises(NotAdmitted, match="E-REPLY-REQUEST"):
        admit(reply(request=fingerprint(other)), TRAIN, TRAIN_KEY, STUDY, SPEC)


def test_what_is_admitted_stays_finite_in_sums_and_squares() -> None:
    """The bound is worth something only if Flower's float32 arithmetic survives it."""
    edge = np.full(1000, LARGEST_VALUE, np.float32)
    with np.errstate(all="raise"):
        assert np.isfinite(np.square(edge).sum())
        assert np.isfinite(edge * np.float32(1e5)).all()
        assert np.isfinite(sum([LARGEST_VALUE] * 10_000))
