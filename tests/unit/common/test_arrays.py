"""Named arrays: what is let in, what an update is, and which of them are the same."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from common.arrays import (
    Arrays,
    Spec,
    apply_update,
    check,
    check_finite,
    check_spec,
    difference,
    digest,
    norm,
)
from common.errors import ModelError

SPEC: Spec = {"z": (2, 3), "a": (4,), "one": ()}


def arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in SPEC.items()}


def put(name: str, array: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    return {**arrays(), name: array}


def with_value(value: float) -> dict[str, NDArray[np.generic]]:
    a = arrays()["z"]
    a[1, 2] = value
    return put("z", a)


def test_what_fits_the_spec_is_let_in() -> None:
    check(arrays(), SPEC)
    check({}, {})
    check(with_value(3.4e38), SPEC)


WRONG: dict[str, Mapping[str, NDArray[np.generic]]] = {
    "missing": {name: a for name, a in arrays().items() if name != "a"},
    "more": put("extra", np.zeros(1, np.float32)),
    "renamed": {("A" if name == "a" else name): a for name, a in arrays().items()},
    "another order": dict(sorted(arrays().items())),
    "none": {},
    "float64": put("a", arrays()["a"].astype(np.float64)),
    "float16": put("a", arrays()["a"].astype(np.float16)),
    "integers": put("a", np.zeros(4, np.int32)),
    "the other byte order": put("a", arrays()["a"].astype(">f4")),
    "broadcastable": put("a", np.zeros(1, np.float32)),
    "broadcastable to two dimensions": put("z", np.zeros(3, np.float32)),
    "one more dimension": put("a", np.zeros((1, 4), np.float32)),
    "transposed": put("z", arrays()["z"].T),
    "one for a number": put("one", np.zeros(1, np.float32)),
    "empty": put("a", np.zeros(0, np.float32)),
    "NaN": with_value(np.nan),
    "infinity": with_value(np.inf),
    "minus infinity": with_value(-np.inf),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_deviation_from_the_spec_is_refused(case: str) -> None:
    with pytest.raises(ModelError):
        check(WRONG[case], SPEC)


@pytest.mark.parametrize("case", WRONG)
def test_each_deviation_is_found_by_one_half_of_the_check(case: str) -> None:
    value = case in ("NaN", "infinity", "minus infinity")
    wrong, right = (check_finite, check_spec) if value else (check_spec, check_finite)

    def half(this: Callable[..., None]) -> None:
        this(WRONG[case], *([SPEC] if this is check_spec else []))

    half(right)
    with pytest.raises(ModelError):
        half(wrong)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", r"missing \['a'\]"),
        ("more", r"unexpected \['extra'\]"),
        ("float64", "'a' has dtype float64, expected float32"),
        ("transposed", r"'z' has shape \(3, 2\), expected \(2, 3\)"),
        ("NaN", "'z' holds a value that is not finite"),
    ],
)
def test_a_deviation_is_named(case: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check(WRONG[case], SPEC)


def test_a_long_list_of_deviations_is_cut() -> None:
    with pytest.raises(ModelError) as caught:
        check({f"name-{n}": np.zeros(1, np.float32) for n in range(10_000)}, SPEC)
    assert len(str(caught.value)) < 300


def test_an_update_is_local_minus_received_and_leads_back() -> None:
    received, local = arrays(0), arrays(1)
    update = difference({name: local[name] for name in ("z", "one")}, received)
    assert list(update) == ["z", "one"]
    np.testing.assert_array_equal(update["z"], local["z"] - received["z"])
    after = apply_update(received, update)
    assert list(after) == list(received)
    np.testing.assert_array_equal(after["a"], received["a"])  # a frozen layer stays
    np.testing.assert_allclose(after["z"], local["z"], rtol=0, atol=1e-6)
    check(after, SPEC)
    np.testing.assert_array_equal(received["z"], arrays(0)["z"])  # nothing is changed in place


def test_the_norm_is_over_all_values_in_double_precision() -> None:
    assert norm({"a": np.full((1, 1), 3, np.float32), "b": np.array([0, 4], np.float32)}) == 5.0
    assert norm({}) == 0.0
    large = np.full(4, 1e30, np.float32)  # its square overflows float32
    assert norm({"a": large}) == pytest.approx(2e30, rel=1e-6)


def test_equal_arrays_have_one_digest_whatever_their_layout() -> None:
    assert digest(arrays()) == digest(arrays())
    assert digest({**arrays(), "z": np.asfortranarray(arrays()["z"])}) == digest(arrays())
    assert len(digest({})) == 64


def test_other_arrays_have_other_digests() -> None:
    base = arrays()
    nudged = base["z"].copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], np.float32(1))
    others: list[dict[str, NDArray[np.generic]]] = [
        {**base},
        {**base, "z": nudged},
        {**base, "z": base["z"].reshape(3, 2)},
        {**base, "z": base["z"].view(np.int32)},
        dict(sorted(base.items())),
        {("A" if name == "a" else name): a for name, a in base.items()},
        {name: a for name, a in base.items() if name != "one"},
        {},
    ]
    digests = {digest(other) for other in others}  # type: ignore[arg-type]
    assert len(digests) == len(others)


def test_a_name_cannot_pass_for_another_array() -> None:
    """Two arrays, and one whose name is the first's head, bytes and the second's name."""
    first = np.frombuffer(b"abcd", np.float32)
    two = {"x": first, "y": np.zeros(1, np.float32)}
    for head in ("x(1,)float32", 'x", [1], "float32"]', "x"):
        one = {f"{head}abcdy": np.zeros(1, np.float32)}
        assert digest(two) != digest(one)
