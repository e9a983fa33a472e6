"""A study's series as a protocol writes them: what is refused, and in which words."""

import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from common.documents import first_problem
from common.sequences.schema import Sequences

WARD = """
classes = ["well", "worse"]
steps = 24
stay = "stay_id"
time = { column = "minute", unit = "minutes", zero = "admission to the ward" }
step = 60.0
variables = [
  { name = "heart-rate", unit = "/min", range = [20, 220] },
  { name = "lactate", unit = "mmol/L", range = [0, 20], outside = "clip" },
]
"""


def sequences(**changes: Any) -> Sequences:
    return Sequences.model_validate({**tomllib.loads(WARD), **changes})


def test_what_the_files_have_and_what_the_model_sees() -> None:
    ward = sequences()
    assert ward.series_columns == ("patient_id", "stay_id", "minute", "variable", "value")
    assert ward.outcome_columns == ("patient_id", "stay_id", "outcome")
    assert sequences(split="side").outcome_columns[-1] == "side"
    assert (ward.features, ward.window) == (6, 1440.0)
    assert Sequences.model_validate(tomllib.loads(ward.to_toml())) == ward


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["well", "well"]}, "sequences.classes names 'well' twice"),
        ({"classes": ["1", "1.0"]}, "sequences.classes names '1' twice"),
        ({"steps": 1}, "'steps' is 1 but must be greater than or equal to 2"),
        ({"step": 0.0}, "'step' is 0.0 but must be greater than 0"),
        ({"stepp": 2.0}, "unknown key 'stepp'; did you mean 'step'?"),
        ({"validation-fraction": 1.0}, "'validation-fraction' is 1.0 but must be less than 1"),
        ({"stay": "patient_id"}, "names 'patient_id' twice among the columns of series.csv"),
        ({"time": {"column": "value"}}, "names 'value' twice among the columns of series.csv"),
        ({"outcome": "stay_id"}, "names 'stay_id' twice among the columns of outcomes.csv"),
        ({"variables": []}, "'variables' is [] but must have at least 1 item"),
        (
            {"variables": [{"name": "pulse", "range": [220, 20]}]},
            "the range of variable 'pulse' is 220 to 20 but must be the lowest, then the highest",
        ),
        (
            {"variables": [{"name": "pulse", "range": [20, 220]}] * 2},
            "names 'pulse' twice among the variables",
        ),
        (
            {
                "steps": 1000,
                "variables": [{"name": f"v{n}", "range": [0, 1]} for n in range(11)],
            },
            "1000 steps of 11 variables but at most 10000 together",
        ),
    ],
)
def test_a_refusal_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        sequences(**changes)
    assert said in first_problem(refused.value, Sequences)
