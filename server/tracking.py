"""A run in MLflow's file store, `mlflow/` beside `tensorboard/`, where MLflow is installed.

The extra `intramural[tracking]` is the switch: without it nothing is written. The store is a folder that
MLflow reads in place; nothing is served and nothing is dialled. MLflow sends usage statistics unless told
otherwise (common/outbound.py tells it). The file store gets no new features and opens for whoever says so
(MLFLOW_ALLOW_FILE_STORE); MLflow's other local store, SQLite, uses what the SQLAlchemy that Flower brings
deprecates.
"""

import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common import outbound
from common.model_card import MODEL_CARD
from common.tasks import task_of
from server.checklist import CHECKLIST
from server.facts import ReportFacts, RoundFacts
from server.model_card_text import MODEL_CARD_TEXT
from server.sections import part_of

STORE = "mlflow"
ARTIFACTS = ("report.html", "protocol.toml", MODEL_CARD, MODEL_CARD_TEXT, CHECKLIST)
STATUS = {"finished": "FINISHED", "under way": "RUNNING"}


def write_mlflow(folder: Path, facts: ReportFacts) -> None:
    """Write the run in `folder` as one MLflow run in `folder/mlflow`, anew; nothing without MLflow.

    Parameters are the protocol's settings under their names, metrics the figures of each round and of the
    end, artifacts what of ARTIFACTS is there. MLflow notes where artifacts lie: a folder that was moved is
    written again by writing its report again. OSError when it cannot be written.
    """
    outbound.switch_off()  # MLflow looks at the switch when it is imported
    try:
        from mlflow.store.tracking.file_store import FileStore
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError:
        return
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    store = (folder / STORE).resolve()
    store.mkdir(mode=0o700, exist_ok=True)  # MLflow's own files are readable for all
    for old in store.iterdir():
        # The bin is made once a process, and missed after that; a file of somebody else's is left.
        if old.is_dir() and old.name != FileStore.TRASH_FOLDER_NAME:
            shutil.rmtree(old)
    client = MlflowClient(tracking_uri=store.as_uri())
    experiment = client.create_experiment(facts.protocol.study)
    run = client.create_run(
        experiment, run_name=folder.name, tags={"rehearsal": "yes" if facts.rehearsal else "no"}
    ).info.run_id
    document = facts.protocol.model_dump(by_alias=True, exclude_none=True, mode="json")
    document["hospitals"] = {h["name"]: h["nominal-patients"] for h in document["hospitals"]}
    for name, value in _settings(document):
        client.log_param(run, name, value)
    now = int(1000 * time.time())
    for step, name, figure in _figures(facts):
        client.log_metric(run, name, figure, timestamp=now, step=step)
    for name in ARTIFACTS:
        if (folder / name).is_file():
            client.log_artifact(run, folder / name)
    client.set_terminated(run, STATUS.get(facts.stopped, "FAILED"))


def _settings(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """("training.steps-per-round", "4") and so on."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def _figures(facts: ReportFacts) -> Iterator[tuple[int, str, float]]:
    """Step (the round), name and value of every figure; what is not known is left out."""
    judge = task_of(facts.protocol).judge
    for r in facts.rounds:
        yield from ((r.round, name, value) for name, value in _of_round(r))
        if judge is not None:
            yield from ((r.round, name, value) for name, value in _judged(r, judge.key, facts))
    last = len(facts.rounds)
    for hospital in facts.hospitals:
        if hospital.epsilon is not None and math.isfinite(hospital.epsilon):
            yield last, f"epsilon/{hospital.name}", hospital.epsilon
    if facts.released is not None and facts.judged_after is not None:
        for name, value in part_of(facts.protocol).numbers(facts.released).items():
            if isinstance(value, float) and math.isfinite(value):
                yield facts.judged_after, f"released/{name.replace('_', '-')}", value


def _of_round(r: RoundFacts) -> Iterator[tuple[str, float]]:
    yield "round/seconds", r.seconds
    yield "round/answered", len(r.answered)
    yield "round/refused", len(r.refused)
    yield "round/missing", len(r.missing)


def _judged(r: RoundFacts, key: str, facts: ReportFacts) -> Iterator[tuple[str, float]]:
    """The discrimination, called `key`, of the model that came out of a round."""
    if facts.rehearsal and r.discrimination is not None:
        yield f"pooled/{key}", r.discrimination  # exact
    if (found := r.released_discrimination) is not None:
        low, high = found.interval
        yield f"released/{key}", found.value
        yield f"released/{key}-low", low
        yield f"released/{key}-high", high
