"""One reply is used or refused with a code; the table has everything that a hospital might send."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.privacy.budget import protocol_noise
from common import messages
from common.arrays import Arrays, Spec
from common.bounds import MOST_EXTRA_NOISE, largest_norm
from common.errors import BudgetError
from common.judging.binary import HISTOGRAM_BINS
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
from common.tasks import bins_of
from common.tasks.nodule_classification.study import NoduleStudy
from server.admission import REASONS, NotAdmitted, Past, Question, Reply, admit, most_bytes
from tests.tasks import TASKS, small

MakeStudy = Callable[..., NoduleStudy]


def study(every: int = 1, **privacy: object) -> NoduleStudy:
    """Three rounds; the question of round 2 is judged with `every` = 1 and not with 3."""
    return NoduleStudy.model_validate(
        {
            "study": "a-study",
            "rounds": 3,
            "images": {"classes": ["no", "yes"], "size": 16},
            "training": {"steps-per-round": 4, "learning-rate": 0.1, "sampling-rate": 0.5},
            "evaluation": {"every": every},
            "privacy": privacy,
            "participation": {"quorum": 1},
            "hospitals": [{"name": "north", "nominal-patients": 4}],
        }
    )


JUDGED, UNJUDGED_STUDY, WITHOUT_DP = study(), study(3), study(mechanism="none")
SPEC = {"z.weight": (2, 3), "a.bias": (4,)}
ROW = tuple(float(n) - 0.5 for n in range(HISTOGRAM_BINS))


def model(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SPEC.items()}


TRAIN = TrainRequest(protocol="study", round=2, arrays=model())
EVALUATE = EvaluateRequest(protocol="study", round=4, arrays=model())
# Multipliers that epsilon 8 allows here are these, by the accountants of a hospital, up to ten times these.
ASKED, SCORES_ASKED = 1.2847, 1.2045
NOISE, SCORE_NOISE = 2.0, 2.5


def head(n: int) -> str:
    """The ledger's head under a hospital's n-th answer."""
    return f"{n:064x}"


TRAINING = Question.of(JUDGED, TRAIN, SPEC)
EVALUATION = Question.of(JUDGED, EVALUATE, SPEC)
# A round in which the protocol does not evaluate, and one without privacy.
UNJUDGED = Question.of(UNJUDGED_STUDY, TRAIN, SPEC)
UNCLIPPED = Question.of(WITHOUT_DP, TRAIN, SPEC)

ANSWER: dict[str, Any] = {
    "study": JUDGED.digest,
    "ledger_head": head(1),
    "previous_head": None,
    "policy": head(100),
    "histogram": (ROW, ROW),
    "histogram_noise": SCORE_NOISE,
    "suppressed": False,
}


def reply(**changes: object) -> TrainReply:
    asked = {"round": 2, "request": fingerprint(TRAIN)}
    made = {"noise_multiplier": NOISE, "arrays": model(1)}
    return TrainReply.model_validate({**ANSWER, **asked, **made, **changes})


def score(**changes: object) -> EvaluateReply:
    asked = {"round": 4, "request": fingerprint(EVALUATE)}
    return EvaluateReply.model_validate({**ANSWER, **asked, **changes})


def silent(**changes: object) -> TrainReply:
    """An honest reply of a round that does not evaluate."""
    nothing = {"study": UNJUDGED_STUDY.digest, "histogram": None, "histogram_noise": None}
    return reply(**{**nothing, **changes})


def few(**changes: object) -> dict[str, object]:
    """What a hospital says that has too few patients in a class."""
    return {"histogram": None, "histogram_noise": None, "suppressed": True, **changes}


def noiseless(**changes: object) -> TrainReply:
    """An honest reply without privacy."""
    plain = {"study": WITHOUT_DP.digest, "noise_multiplier": 0.0, "histogram_noise": 0.0}
    return reply(**{**plain, **changes})


NEW = Past()  # nothing is known of the hospital yet


def code_of(message: Message, asked: Question, past: Past = NEW) -> str:
    """The code with which `message` is refused."""
    with pytest.raises(NotAdmitted) as caught:
        admit(message, "north", asked, past)
    assert caught.value.code in REASONS or isinstance(message, Refusal)
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
    assert admit(good, "north", TRAINING, NEW) is good
    scored = score()
    assert admit(scored, "north", EVALUATION, NEW) is scored
    unjudged = silent()
    assert admit(unjudged, "north", UNJUDGED, NEW) is unjudged
    for held_back, asked in ((reply(**few()), TRAINING), (score(**few()), EVALUATION)):
        assert admit(held_back, "north", asked, NEW) is held_back
    plain = noiseless()
    assert admit(plain, "north", UNCLIPPED, NEW) is plain


def test_what_noise_and_rounding_do_to_an_honest_reply_is_admitted() -> None:
    """Negative cells, a zero update, the bound itself, and values that a large model may have."""
    for arrays in (with_value(LARGEST_VALUE), with_value(-1e6), with_value(1e-45)):
        admit(noiseless(arrays=arrays), "north", UNCLIPPED, NEW)
    zero = {name: np.zeros(shape, np.float32) for name, shape in SPEC.items()}
    admit(reply(arrays=zero), "north", TRAINING, NEW)
    for cell in (-1234.5, 0.0, LARGEST_VALUE, -LARGEST_VALUE):
        admit(reply(histogram=with_cell(cell)), "north", TRAINING, NEW)


def at_norm(norm: float) -> Arrays:
    """An update of exactly this norm, in one value."""
    return {
        "z.weight": np.zeros((2, 3), np.float32),
        "a.bias": np.array([0, norm, 0, 0], np.float32),
    }


def test_the_bound_on_the_norm_is_that_of_the_stated_noise() -> None:
    """It cannot be widened beyond ten times: more noise is not believed."""
    for noise in (NOISE, 5 * NOISE):
        bound = largest_norm(JUDGED, 4, noise, 10)
        admit(reply(arrays=at_norm(0.99 * bound), noise_multiplier=noise), "north", TRAINING, NEW)
        over = reply(arrays=at_norm(1.01 * bound), noise_multiplier=noise)
        assert code_of(over, TRAINING) == "E-REPLY-NORM"
    admit(noiseless(arrays=at_norm(1e6)), "north", UNCLIPPED, NEW)  # nothing is clipped


@pytest.mark.parametrize("field", ["noise_multiplier", "histogram_noise"])
def test_only_noise_that_the_protocol_can_lead_to_is_believed(field: str) -> None:
    """From what epsilon asks for to ten times that; and none without privacy."""
    # What a hospital's own accountants find for 12 steps at rate 0.5, and for 4 full releases.
    asked = {"noise_multiplier": ASKED, "histogram_noise": SCORES_ASKED}[field]
    for noise in (asked, 3 * asked, MOST_EXTRA_NOISE * asked):
        admit(reply(**{field: noise}), "north", TRAINING, NEW)
    for noise in (0.0, 1e-300, 1e-9, 0.01, 0.1, 0.9 * asked, 1.1 * MOST_EXTRA_NOISE * asked, 1e9):
        assert code_of(reply(**{field: noise}), TRAINING) == "E-REPLY-NOISE", noise
    for noise in (1e-300, 1.0, 1e9):
        assert code_of(noiseless(**{field: noise}), UNCLIPPED) == "E-REPLY-NOISE", noise


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
    "NaN": (lambda: reply(arrays=with_value(np.nan)), "E-REPLY-FINITE"),
    "infinity": (lambda: reply(arrays=with_value(np.inf)), "E-REPLY-FINITE"),
    "minus infinity": (lambda: reply(arrays=with_value(-np.inf)), "E-REPLY-FINITE"),
    "a huge value": (lambda: reply(arrays=with_value(1e30)), "E-REPLY-SIZE"),
    "a huge negative value": (lambda: reply(arrays=with_value(-3e38)), "E-REPLY-SIZE"),
    "just too large": (lambda: reply(arrays=with_value(LARGEST_VALUE * 1.001)), "E-REPLY-SIZE"),
    "too large together": (lambda: reply(arrays=with_value(1e3)), "E-REPLY-NORM"),
    "no noise": (lambda: reply(noise_multiplier=0.0), "E-REPLY-NOISE"),
    "too few bins": (lambda: reply(histogram=(ROW[1:], ROW[1:])), "E-REPLY-HISTOGRAM"),
    "too many bins": (lambda: reply(histogram=(ROW * 2, ROW * 2)), "E-REPLY-HISTOGRAM"),
    "uneven bins": (lambda: uneven(reply()), "E-REPLY-HISTOGRAM"),
    "no bins": (lambda: reply(histogram=((), ())), "E-REPLY-HISTOGRAM"),
    "a huge cell": (lambda: reply(histogram=with_cell(1e38)), "E-REPLY-HISTOGRAM"),
    "a huge negative cell": (lambda: reply(histogram=with_cell(-1e30)), "E-REPLY-HISTOGRAM"),
    # The next single-precision number above 1e9.
    "cell too large": (lambda: reply(histogram=with_cell(LARGEST_VALUE + 64)), "E-REPLY-HISTOGRAM"),
    "no histogram": (lambda: reply(**few(suppressed=False)), "E-REPLY-HISTOGRAM"),
    "suppressed and released": (lambda: reply(suppressed=True), "E-REPLY-HISTOGRAM"),
    "suppressed with noise": (lambda: reply(**few(histogram_noise=2.5)), "E-REPLY-HISTOGRAM"),
    "suppressed cells": (lambda: reply(**few(histogram=(ROW, ROW))), "E-REPLY-HISTOGRAM"),
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
        nothing: dict[str, object] = {"histogram": None, "histogram_noise": None}
        if message.study == JUDGED.digest:
            nothing["study"] = UNJUDGED_STUDY.digest
        message = message.model_copy(update=nothing)
    assert code_of(message, UNJUDGED) == code


@pytest.mark.parametrize(
    "changes",
    [
        {"histogram": (ROW, ROW), "histogram_noise": 2.5},
        {"histogram": (ROW, ROW)},
        {"histogram_noise": 2.5},
        {"histogram_noise": 0.0},
        {"histogram": ((0.0,) * 16, (0.0,) * 16)},
        {"suppressed": True},  # nothing was asked for that could be
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


# --- whatever the task ---------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_of_any_task_an_honest_reply_is_admitted_and_another_is_not(task: str) -> None:
    protocol = small(task, north=4)
    spec, bins = update_spec(protocol), bins_of(protocol)
    asked, noise = Question.of(protocol, TRAIN, spec), protocol_noise(protocol)
    row = tuple(float(n) for n in range(bins))
    judged: dict[str, object] = {"histogram": None, "histogram_noise": None}
    if bins:
        judged = {"histogram": (row, row), "histogram_noise": 1.5 * noise["validation"]}
    name, shape = next(iter(spec.items()))

    def sent(**changes: object) -> TrainReply:
        about = {"study": protocol.digest, "noise_multiplier": 1.5 * noise["training"], **judged}
        return reply(**{**about, "arrays": filled(spec), **changes})

    def with_first(array: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
        return {**filled(spec), name: array}

    good = sent()
    assert admit(good, "north", asked, NEW) is good
    for changes, code in (
        ({"arrays": with_first(np.full(shape, np.nan, np.float32))}, "E-REPLY-FINITE"),
        ({"arrays": with_first(np.full(shape, 1e30, np.float32))}, "E-REPLY-SIZE"),
        ({"arrays": with_first(np.full(shape, 1e3, np.float32))}, "E-REPLY-NORM"),
        ({"arrays": with_first(np.zeros((*shape, 1), np.float32))}, "E-REPLY-ARRAYS"),
        ({"arrays": with_first(np.zeros(shape))}, "E-REPLY-ARRAYS"),
        ({"arrays": {**filled(spec), "more": np.zeros(1, np.float32)}}, "E-REPLY-ARRAYS"),
        ({"noise_multiplier": 0.9 * noise["training"]}, "E-REPLY-NOISE"),
        ({"noise_multiplier": 100 * noise["training"]}, "E-REPLY-NOISE"),
        (
            {"histogram": ((0.0,) * (bins + 1),) * 2, "histogram_noise": 2.0},
            "E-REPLY-HISTOGRAM",
        ),
    ):
        assert code_of(sent(**changes), asked) == code


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
            assert admit(answer, "north", asked, past) is answer
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
    return {name: np.full(shape, 0.01, np.float32) for name, shape in spec.items()}


@pytest.mark.parametrize("trainable", ["head", "norm-and-head"])
def test_an_update_with_an_array_that_is_not_trained_is_refused(
    trainable: str, make_study: MakeStudy
) -> None:
    protocol = make_study(model={"trainable": trainable})
    trained, whole = update_spec(protocol), model_spec(protocol)
    asked = Question.of(protocol, TRAIN, trained)

    def sent(spec: Spec) -> TrainReply:
        return reply(study=protocol.digest, arrays=filled(spec))

    good = sent(trained)
    assert admit(good, "north", asked, NEW) is good
    assert code_of(sent(whole), asked) == "E-REPLY-ARRAYS"
    for trunk in [name for name in whole if name not in trained]:
        extra = {name: s for name, s in whole.items() if name in trained or name == trunk}
        assert code_of(sent(extra), asked) == "E-REPLY-ARRAYS"
    for missing in trained:
        fewer = {name: shape for name, shape in trained.items() if name != missing}
        assert code_of(sent(fewer), asked) == "E-REPLY-ARRAYS"


def test_an_honest_answer_is_far_from_the_most_bytes() -> None:
    """And the most is little more than what a whole answer has."""
    large = {"weight": (1000, 100)}
    update = {"weight": np.zeros((1000, 100), np.float32)}
    answer = len(messages.encode(reply(arrays=update, round=100_000)))
    assert answer < most_bytes(large, HISTOGRAM_BINS) < 1.12 * answer
    assert len(messages.encode(score())) < most_bytes(SPEC, HISTOGRAM_BINS)


def test_what_is_admitted_stays_finite_in_sums_and_squares() -> None:
    """The bound is worth something only if Flower's float32 arithmetic survives it."""
    edge = np.full(1000, LARGEST_VALUE, np.float32)
    with np.errstate(all="raise"):
        assert np.isfinite(np.square(edge).sum())
        assert np.isfinite(edge * np.float32(1e5)).all()
        assert np.isfinite(sum([LARGEST_VALUE] * 10_000))
