"""MLflow reads the store back, nothing is dialled, and without MLflow nothing is written."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from common.histogram import Estimate
from common.model_card import MODEL_CARD
from common.released import Reading
from server.facts import ReportFacts
from server.tracking import write_mlflow
from tests.answering import MakeStudy
from tests.unit.server.test_model_card import finished, papers

pytestmark = [
    pytest.mark.slow,  # MLflow takes a second to load
    pytest.mark.skipif(find_spec("mlflow") is None, reason="intramural[tracking] is not installed"),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # restored after the test


def with_figures(facts: ReportFacts) -> ReportFacts:
    rounds = tuple(
        replace(
            r, discrimination=0.9, released_discrimination=Estimate(0.7 + r.round / 100, (0.6, 0.8))
        )
        for r in facts.rounds
    )
    return replace(facts, rounds=rounds)


def reader(folder: Path) -> Any:
    """MLflow's own client on the store in `folder`."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=(folder / "mlflow").as_uri())


def test_mlflow_reads_the_run_back(make_study: MakeStudy, tmp_path: Path) -> None:
    facts = with_figures(finished(make_study(rounds=4)))
    papers(tmp_path, facts)
    (tmp_path / "report.html").write_text("<p>report</p>")
    for _ in range(2):  # written anew, not added to
        write_mlflow(tmp_path, facts)
        (tmp_path / "mlflow" / ".DS_Store").touch()  # a file manager's
    assert (tmp_path / "mlflow").stat().st_mode & 0o777 == 0o700
    client = reader(tmp_path)
    experiment = client.get_experiment_by_name("a-study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (tmp_path.name, "FINISHED")
    assert run.data.params["rounds"] == "4"
    assert run.data.params["training.learning-rate"] == "0.1"
    assert run.data.params["hospitals.west"] == "8"
    assert run.data.tags["rehearsal"] == "no"
    history = client.get_metric_history(run.info.run_id, "released/auroc")
    assert {m.step: m.value for m in history} == {1: 0.71, 2: 0.72, 3: 0.73, 4: 0.74}
    assert run.data.metrics["epsilon/south"] == 3.5
    assert isinstance(facts.released, Reading)
    assert run.data.metrics["released/brier"] == facts.released.calibration.brier
    point = facts.released.operating_point
    assert point is not None
    assert run.data.metrics["released/sensitivity"] == point.sensitivity.value
    assert "pooled/auroc" not in run.data.metrics  # exact, and this was no rehearsal
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"report.html", MODEL_CARD, "model_card.md", "reporting-checklist.md"}
    copied = client.download_artifacts(run.info.run_id, MODEL_CARD)
    assert Path(copied).read_text() == (tmp_path / MODEL_CARD).read_text()


def test_a_rehearsal_has_its_exact_curve(make_study: MakeStudy, tmp_path: Path) -> None:
    facts = replace(with_figures(finished(make_study())), backend="local", stopped="quorum-missed")
    write_mlflow(tmp_path, facts)
    client = reader(tmp_path)
    experiment = client.get_experiment_by_name("a-study")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["rehearsal"]) == ("FAILED", "yes")
    assert run.data.metrics["pooled/auroc"] == 0.9


def test_without_mlflow_nothing_is_written(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    write_mlflow(tmp_path, finished(make_study()))
    assert list(tmp_path.iterdir()) == []


class Without:
    """An interpreter in which MLflow is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "mlflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# Every look-up of a name and every connection is refused and printed; CI's own variables, which silence
# MLflow too, are taken away.
GUARDED = """
import sys, time
dialled = []
def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        dialled.append(event)
        print("DIALLED", event, args[0], flush=True)
        raise OSError("no network in this test")
sys.addaudithook(guard)
{what}
until = time.monotonic() + {seconds}  # MLflow dials from a thread
while not dialled and time.monotonic() < until:
    time.sleep(0.1)
"""

WRITE = """
from pathlib import Path
from server.tracking import write_mlflow
from server.facts import HospitalFacts, ReportFacts, RoundFacts
from common.tasks.nodule_classification.study import NoduleStudy
study = NoduleStudy.model_validate({{
    "study": "a", "rounds": 2, "images": {{"classes": ["no", "yes"], "size": 16}},
    "training": {{"steps-per-round": 1, "learning-rate": 0.1, "sampling-rate": 0.5}},
    "participation": {{"quorum": 1}}, "hospitals": [{{"name": "n", "nominal-patients": 50}}]}})
facts = ReportFacts(study, "deployment", "finished", (RoundFacts(1, 1.0, ("n",)),),
                    (HospitalFacts("n", 50, epsilon=1.0),), False)
write_mlflow(Path({folder!r}), facts)
"""


def dialled(what: str, repository: Path, seconds: int, **more: str) -> Iterator[str]:
    silencing = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "MLFLOW_", "DO_NOT_TRACK")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(silencing)}
    done = subprocess.run(
        [sys.executable, "-c", GUARDED.format(what=what, seconds=seconds)],
        cwd=repository,
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    yield from (line for line in done.stdout.splitlines() if line.startswith("DIALLED"))


def test_nothing_is_dialled(repository: Path, tmp_path: Path) -> None:
    elsewhere = {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}  # of another study's
    assert list(dialled(WRITE.format(folder=str(tmp_path)), repository, 1, **elsewhere)) == []
    assert (tmp_path / "mlflow").is_dir()


def test_the_guard_sees_what_mlflow_would_dial(repository: Path, tmp_path: Path) -> None:
    without = "from common import outbound; del outbound.SWITCHES['MLFLOW_DISABLE_TELEMETRY']"
    program = without + WRITE.format(folder=str(tmp_path))
    assert list(dialled(program, repository, 30)), "MLflow no longer phones home: drop the switch"
