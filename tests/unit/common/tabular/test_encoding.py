"""Encoded records against scikit-learn's transformers, given the same public constants."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

from common.tabular.encoding import Floats, encode, outside, settled
from common.tabular.schema import Column

LOW, HIGH = 30.0, 77.0
PLACES = np.array([0.0, 1.0, 2.0, 3.0])
CATEGORIES = ("a", "b", "c", "d")


def numbers(seed: int, missing: float) -> Floats:
    print(f"seed {seed}")
    drawn = np.random.default_rng(seed).uniform(LOW, HIGH, 500)
    drawn[np.random.default_rng(seed + 1).random(500) < missing] = np.nan
    return drawn


def public_range() -> MinMaxScaler:
    """Fitted on the ends of the range, which is all that it may know."""
    return MinMaxScaler((-1, 1)).fit([[LOW], [HIGH]])


def test_a_number_is_scaled_as_minmaxscaler_does_from_the_ends_of_the_range() -> None:
    values = numbers(1, missing=0)[:, None]
    ours = encode(values, [Column(name="x", kind="number", range=(LOW, HIGH))])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, public_range().transform(values), rtol=0, atol=1e-6)


def test_center_and_scale_are_those_of_standardscaler() -> None:
    values = numbers(2, missing=0)[:, None]
    scaler = StandardScaler().fit(values)
    column = Column(
        name="x",
        kind="number",
        range=(LOW, HIGH),
        center=float(scaler.mean_[0]),
        scale=float(scaler.scale_[0]),
    )
    np.testing.assert_allclose(encode(values, [column]), scaler.transform(values), atol=1e-6)


@pytest.mark.parametrize("missing", ["indicator", "middle"])
def test_what_is_missing_is_imputed_as_simpleimputer_does(missing: str) -> None:
    values = numbers(3, missing=0.3)[:, None]
    middle = (LOW + HIGH) / 2
    imputer = SimpleImputer(
        strategy="constant", fill_value=middle, add_indicator=missing == "indicator"
    )
    theirs = imputer.fit_transform(values)
    theirs[:, :1] = public_range().transform(theirs[:, :1])
    column = Column.model_validate(
        {"name": "x", "kind": "number", "range": (LOW, HIGH), "missing": missing}
    )
    ours = encode(values, [column])
    assert ours.shape == (500, len(column.features))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_categories_are_onehotencoders_without_the_first() -> None:
    values = np.random.default_rng(4).integers(0, 4, (300, 1)).astype(np.float64)
    encoder = OneHotEncoder(categories=[PLACES], drop="first", sparse_output=False)
    column = Column(name="c", kind="category", categories=CATEGORIES)
    np.testing.assert_array_equal(encode(values, [column]), encoder.fit_transform(values))


def test_a_missing_category_is_the_reference_with_an_indicator() -> None:
    values = np.random.default_rng(5).integers(0, 4, (300, 1)).astype(np.float64)
    values[::7] = np.nan
    encoder = OneHotEncoder(categories=[PLACES], drop="first", sparse_output=False)
    reference = Pipeline(
        [("impute", SimpleImputer(strategy="constant", fill_value=0.0)), ("code", encoder)]
    )
    theirs = FeatureUnion([("code", reference), ("missing", MissingIndicator())])
    column = Column(name="c", kind="category", categories=CATEGORIES, missing="indicator")
    np.testing.assert_array_equal(encode(values, [column]), theirs.fit_transform(values))


def test_columns_stand_side_by_side_in_the_order_of_their_features() -> None:
    values = np.column_stack([numbers(6, 0), np.arange(500) % 4, numbers(7, 0)])
    columns = [
        Column(name="x", kind="number", range=(LOW, HIGH)),
        Column(name="c", kind="category", categories=CATEGORIES),
        Column(name="y", kind="number", range=(LOW, HIGH)),
    ]
    one_hot = OneHotEncoder(categories=[PLACES], drop="first", sparse_output=False)
    scaler = FeatureUnion([("scale", MinMaxScaler((-1, 1)))])
    ends = np.array([[LOW, 0, LOW], [HIGH, 3, HIGH]])
    theirs = ColumnTransformer(
        [("x", scaler, [0]), ("c", one_hot, [1]), ("y", clone_of(scaler), [2])]
    ).fit(ends)
    np.testing.assert_allclose(encode(values, columns), theirs.transform(values), atol=1e-6)
    assert [name for column in columns for name in column.features] == [
        "x",
        "c = b",
        "c = c",
        "c = d",
        "y",
    ]


def clone_of(transformer: FeatureUnion) -> FeatureUnion:
    from sklearn.base import clone

    return clone(transformer)


def test_the_ends_of_the_range_belong_to_it() -> None:
    column = Column(name="x", kind="number", range=(LOW, HIGH))
    values = np.array([LOW, HIGH, np.nextafter(LOW, 0), np.nextafter(HIGH, 100), np.nan])
    assert outside(values, column).tolist() == [False, False, True, True, False]
    np.testing.assert_array_equal(settled(values, column), values)


def test_what_is_outside_is_moved_to_the_nearer_end_or_counts_as_missing() -> None:
    values = np.array([-1e300, LOW, 50.0, 1e300, np.nan])
    clipped = Column(name="x", kind="number", range=(LOW, HIGH), outside="clip", missing="middle")
    np.testing.assert_array_equal(settled(values, clipped), [LOW, LOW, 50.0, HIGH, np.nan])
    missing = Column(
        name="x", kind="number", range=(LOW, HIGH), outside="missing", missing="indicator"
    )
    settled_values = settled(values, missing)
    np.testing.assert_array_equal(settled_values, [np.nan, LOW, 50.0, np.nan, np.nan])
    np.testing.assert_allclose(
        encode(settled_values[:, None], [missing])[:, 1], [1, 0, 0, 1, 1], atol=0
    )


def test_no_rows_are_an_array_of_the_right_width() -> None:
    columns = [
        Column(name="x", kind="number", range=(LOW, HIGH)),
        Column(name="c", kind="category", categories=CATEGORIES, missing="indicator"),
    ]
    assert encode(np.empty((0, 2)), columns).shape == (0, 5)
