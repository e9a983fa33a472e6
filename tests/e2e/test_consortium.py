"""Three hospitals and a coordinator: real processes, TLS and keys, one command to start each side."""

import json
from collections.abc import Callable, Iterator

import pytest

from common.tasks.nodule_classification.study import NoduleStudy
from tests.consortium import Consortium, deployable

SmallStudy = Callable[..., NoduleStudy]

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def consortium(small_study: SmallStudy) -> Iterator[Consortium]:
    found = Consortium(deployable(small_study(north=10, east=6, west=4, quorum=3)))
    yield found
    found.close()


def test_a_consortium_runs_a_study_and_ends_with_the_rehearsals_model(
    consortium: Consortium,
) -> None:
    consortium.start("coordinator")
    consortium.until(consortium.serving, 60, "the coordinator serves")
    checked = consortium.must(
        "intramural-client", "check",
        "--site", consortium.hospital("north") / "site.toml",
        "--connection", consortium.hospital("north") / "connection.toml",
    )  # fmt: skip
    for what in ("ledger", "clock", "certificate", "patients", "wall: network"):
        assert what in checked
    for name in consortium.study.hospital_names:
        consortium.start(name)
    code, said = consortium.run()
    assert code == 0, said + consortium.story()
    assert "finished" in said

    status = json.loads(
        consortium.must("intramural-server", "status", "--json", "--home", consortium.home)
    )
    assert status["coordinator"] == "running"
    assert status["run"]["state"] == "finished"
    assert status["run"]["rounds_closed"] == 3
    assert status["certificate_days_left"]["server"] > 300
    for name in consortium.study.hospital_names:
        about = status["hospitals"][name]
        assert (about["rounds_in"], about["state"]) == (3, "answered")
        assert 0 < about["epsilon"] <= 8.0
        assert about["days_left"] > 300
        assert consortium.spends(name) == (3, 4)  # and the evaluation of the final model

    for record in consortium.records():
        assert record["answered"] == sorted(consortium.study.hospital_names)
    assert consortium.model() == consortium.rehearsed()
    report = (consortium.run_folder / "report.html").read_text()
    assert "The patients' data stayed in the hospitals" in report

    refused, said = consortium.run()
    assert (refused, "has finished" in said) == (2, True)
    for name in consortium.study.hospital_names:
        assert consortium.stop(name) == 0
    assert consortium.stop("coordinator") == 0
    assert not consortium.processes("coordinator")
