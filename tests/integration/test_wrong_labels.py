"""A hospital whose labels are swapped is warned about, and nobody in a clean run: real training on phantoms.

One small case without privacy and with a fixed seed. How often it succeeds, also under privacy, which
hides it where cohorts are small, measures tests/benchmarks/flags.py.
"""

from pathlib import Path

import pytest

from common.protocol import load_protocol
from simulation.hospitals import from_phantoms, with_roster
from simulation.prepare import FIRST_RUN
from tests.benchmarks.flags import compare, without_dp


@pytest.mark.slow
def test_swapped_labels_are_flagged_and_a_clean_run_is_not(tmp_path: Path) -> None:
    small = with_roster(load_protocol(FIRST_RUN), {"north": 60, "east": 50, "south": 40})
    protocol = without_dp(small.model_copy(update={"rounds": 5}))
    data = from_phantoms(protocol, tmp_path / "phantoms", seed=1)
    found = compare(protocol, data, "east", tmp_path, seed=1)
    assert found["clean"] == {}
    assert set(found["swapped"]) == {("east", "FLAG-COSINE")}
