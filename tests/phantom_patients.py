"""Synthetic patients of a study of any task as its vault reads them, and what a model says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from client.data import Cohort, Patients
from client.readers import reader_of
from client.readers.reader import Opening
from client.training import evaluate
from common.protocol import StudyProtocol
from common.tasks import task_of
from simulation.phantoms import phantoms_of


def cohort(study: StudyProtocol, folder: Path, ids: Sequence[str], seed: int) -> Cohort[Patients]:
    """The patients `ids`, whose files are written into the new folder `folder`."""
    folder.mkdir(parents=True)
    phantoms_of(study.task).write(study, folder, list(ids), 0, seed)
    return reader_of(study.task).open_cohort(study, Opening(folder))


def scores(study: StudyProtocol, folder: Path, patients: int, seed: int) -> Any:
    """Of a model with random weights, on so many patients, as the study's judge has them."""
    found = cohort(study, folder, [f"phantom-{n:04d}" for n in range(patients)], seed)
    model = task_of(study).build(study)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn(weights.shape, generator=generator) / 2)
    return evaluate(model, found.training, study, torch.device("cpu"))
