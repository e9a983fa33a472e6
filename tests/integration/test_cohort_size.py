"""One patient more or less changes nothing that can be seen from outside: no constant and no length.

Opacus' default derives rate and expected batch from the private cohort, which makes cohorts of 192
and 193 patients separable in one step (PRIVACY.md section 2).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import training
from client import vault as vault_module
from client.data import Cohort, ImagePatients, Patients
from client.data.record_patients import RecordPatients
from client.ledger import Ledger
from client.privacy.engine import NoisyStep
from client.privacy.sampling import poisson_draw
from client.vault import Vault
from common import messages
from common.model_spec import model_of
from common.protocol import StudyProtocol
from common.tasks import USUAL, task_of
from common.tasks.nodule_classification.study import NoduleStudy
from tests import honesty
from tests.hospital import LIMITS, approved, policy_of
from tests.tasks import TASKS

FEW = [1, 2, 192, 193, 400]


def cohort(patients: int, study: StudyProtocol) -> Cohort[Patients]:
    """`patients` on each side, one view each for training; for validation one of either class.

    Where a patient has one view only there are twice as many for validation.
    """
    generator = np.random.default_rng(patients)
    task = task_of(study)

    def side(views: int) -> Patients:
        owners = patients * views // min(views, study.training.views_per_patient)
        offsets = np.arange(owners + 1) * (patients * views // owners)
        pair = task.some_labels(study, 2).numpy()
        labels = np.resize(pair, (patients * views, *pair.shape[1:]))
        if isinstance(study, NoduleStudy):
            return ImagePatients(
                pixels=generator.integers(0, 256, (len(labels), 16, 16, 1), dtype=np.uint8),
                labels=labels,
                offsets=offsets,
                mean=0.5,
                std=0.25,
            )
        values = generator.standard_normal((len(labels), *task.view_shape(study)))
        return RecordPatients(values.astype(np.float32), labels, offsets)

    return Cohort(training=side(1), validation=side(2))


class Seen:
    """What a hospital's answer of one round was made with, and what left."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.constants: list[Any] = []

        class Step(NoisyStep):
            def __init__(self, optimizer: torch.optim.Optimizer, **constants: Any) -> None:
                seen.constants.append({k: v for k, v in constants.items() if k != "stream"})
                super().__init__(optimizer, **constants)

        def drawn(patients: Patients, rate: float, views: int, stream: Any) -> Any:
            seen.constants.append((rate, views))
            return poisson_draw(patients, rate, views, stream)

        seen = self
        patch.setattr(training, "NoisyStep", Step)
        patch.setattr(training, "poisson_draw", drawn)

    def of(
        self,
        patients: int,
        state: Path,
        study: StudyProtocol,
        patch: pytest.MonkeyPatch,
        smallest_group: int = 1,
    ) -> tuple[object, ...]:
        """Constants of the steps, entries of the ledger, length of the reply, and its public fields."""
        self.constants.clear()
        state.mkdir()
        patch.setattr(vault_module, "open_cohort", lambda *_, **__: cohort(patients, study))
        limits = LIMITS | {"smallest-group": smallest_group}
        policy = approved(policy_of(state, study.digest, max_epsilon=8.0, limits=limits))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = model_of(study)
        arrays = {name: value.numpy() for name, value in model.state_dict().items()}
        request = messages.TrainRequest(protocol=study.to_toml(), round=1, arrays=arrays)
        frame = Vault(policy).handle(messages.encode(request))
        reply = messages.decode(frame)
        assert isinstance(reply, messages.TrainReply)
        assert reply.suppressed == (patients < smallest_group and study.evaluations > 0)
        header = json.loads(messages.header_of(reply))
        secret = ("histogram", "ledger_head", "policy")  # noised; hashes over the time of day
        with Ledger.read(state) as ledger:
            reserved = [(r.spends, dict(r.terms)) for r in ledger.reservations()]
        return (
            list(self.constants),
            reserved,
            len(frame),
            {key: len(header[key] or "") if key in secret else header[key] for key in header},
            {name: (array.shape, array.dtype) for name, array in reply.arrays.items()},
        )


def assert_all_alike(
    task: str, cohorts: list[int], folder: Path, patch: pytest.MonkeyPatch
) -> None:
    seen, study = Seen(patch), honesty.study(rate=0.02, task=task)
    first = seen.of(100, folder / "first", study, patch)
    for patients in cohorts:
        assert seen.of(patients, folder / str(patients), study, patch) == first, patients


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_cohorts_of_other_sizes_look_the_same(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_all_alike(task, FEW, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_patient_more_shows_where_it_turns_the_smallest_group_and_nowhere_else(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one bit of an answer that is not noised (docs/privacy.md), and where nothing is judged none."""
    seen, study = Seen(monkeypatch), honesty.study(rate=0.02, task=task)
    few, many = (
        [seen.of(n, tmp_path / str(n), study, monkeypatch, smallest_group=10) for n in sizes]
        for sizes in ((1, 2, 8, 9), (10, 11, 12, 100))
    )
    assert all(one == few[0] for one in few)
    assert all(one == many[0] for one in many)
    assert few[0][:2] == many[0][:2]  # constants of the steps, and what the ledger holds
    assert (few[0] == many[0]) == (study.evaluations == 0)


@pytest.mark.crash  # nothing is killed here, but it takes a minute
@pytest.mark.parametrize("first", range(1, 401, 50))
def test_every_cohort_from_1_to_400_looks_the_same(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_all_alike(USUAL, list(range(first, first + 50)), tmp_path, monkeypatch)
