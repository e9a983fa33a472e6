"""What a hospital receives: any model that is not the study's is refused before a patient is opened.

The deviations come from hypothesis, which prints how to repeat a failure. Whether a model deviates is
judged here anew, without the code that is tested (THREATS.md T6).
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import vault as vault_module
from client.ledger import Ledger
from client.policy import SitePolicy
from client.vault import Vault
from common import messages
from common.messages import EvaluateRequest, Refusal, TrainRequest
from common.model_spec import model_of
from common.protocol import StudyProtocol
from simulation.hospitals import from_phantoms
from tests.hospital import approved, policy_of
from tests.tasks import TASKS, small

Received = dict[str, NDArray[Any]]
Edit = Callable[[Received, st.DataObject], None]

LARGEST_RMS = 10.0  # of a model's values, as docs/privacy.md says it
DTYPES = ["float64", "float16", "int64", "int32", "uint8", "bool"]


@dataclass(repr=False)
class Site:
    """A hospital with patients on disk, a vault, and what was opened."""

    vault: Vault
    state: Path
    study: StudyProtocol
    model: Received
    opened: list[str] = field(default_factory=list)

    def ledger(self) -> tuple[bytes, int]:
        with Ledger.read(self.state) as ledger:
            return (self.state / "ledger.head").read_bytes(), len(ledger.entries)


_watched: dict[str, Site] = {}  # an audit hook stays for the life of the process


def _hear(name: str, arguments: tuple[Any, ...]) -> None:
    if _watched and name in ("open", "os.listdir", "os.scandir"):
        for folder, site in _watched.items():
            if folder in str(arguments[0]):
                site.opened.append(str(arguments[0]))


sys.addaudithook(_hear)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inbound")


@pytest.fixture(params=TASKS)
def site(
    folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    study, home = small(request.param, north=3), folder / request.param
    data = from_phantoms(study, home, seed=1)["north"]
    state = home / "state"
    model = {name: value.numpy() for name, value in model_of(study).state_dict().items()}
    site = Site(Vault(approved(policy_of(state, study.digest, data=data))), state, study, model)

    def open_cohort(_: StudyProtocol, policy: SitePolicy, **__: object) -> NoReturn:
        site.opened.append(str(policy.data))
        next(policy.data.glob("*.csv")).read_text()
        raise AssertionError("patients were opened")

    monkeypatch.setattr(vault_module, "open_cohort", open_cohort)
    _watched[str(data)] = site
    site.opened.clear()
    yield site
    _watched.clear()


def renamed(arrays: Received, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(arrays)))
    new = data.draw(st.text(max_size=30))
    whole = {new if key == name else key: value for key, value in arrays.items()}
    arrays.clear()
    arrays.update(whole)


def left_out(arrays: Received, data: st.DataObject) -> None:
    del arrays[data.draw(st.sampled_from(list(arrays)))]


def added(arrays: Received, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    arrays[data.draw(st.text(max_size=30))] = np.zeros(shape, np.float32)


def reordered(arrays: Received, data: st.DataObject) -> None:
    whole = [(name, arrays[name]) for name in data.draw(st.permutations(list(arrays)))]
    arrays.clear()
    arrays.update(whole)


def reshaped(arrays: Received, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(arrays)))
    one = arrays[name]
    shapes = [one.ravel(), one[None], one[..., None], one.T.copy(), np.resize(one, one.size + 1)]
    arrays[name] = data.draw(st.sampled_from([*shapes, one.ravel()[:1], one.ravel()[:0]]))


def retyped(arrays: Received, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(arrays)))
    with np.errstate(all="ignore"):
        arrays[name] = arrays[name].astype(data.draw(st.sampled_from(DTYPES)))


def changed(arrays: Received, data: st.DataObject) -> None:
    """One value, to what is not finite or is very large."""
    name = data.draw(st.sampled_from(list(arrays)))
    one = np.array(arrays[name], np.float32)
    assume(one.size)
    at = data.draw(st.integers(0, one.size - 1))
    one.flat[at] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -1e30, 1e6]))
    arrays[name] = one


def scaled(arrays: Received, data: st.DataObject) -> None:
    """All values, so that their root mean square is 1 to 1000."""
    rms = data.draw(st.floats(1, 1000))
    with np.errstate(all="ignore"):
        size = sum(one.size for one in arrays.values())
        now = np.sqrt(sum(float(np.sum(np.square(one, dtype=float))) for one in arrays.values()))
        assume(np.isfinite(now))
        for name, one in arrays.items():  # some models start at zero
            scaled = one * (rms * np.sqrt(size) / now) if now else np.full(one.shape, rms)
            arrays[name] = np.asarray(scaled).astype(one.dtype)


EDITS: list[Edit] = [renamed, left_out, added, reordered, reshaped, retyped, changed, scaled]


def deviates(received: Received, model: Received) -> bool | None:
    """Whether `received` is not a model of the study; None where that is a matter of rounding."""
    if [*received] != [*model]:
        return True
    if any(received[n].dtype != np.float32 or received[n].shape != model[n].shape for n in model):
        return True
    values = np.concatenate([one.ravel() for one in received.values()]).astype(np.float64)
    if not np.isfinite(values).all():
        return True
    rms = float(np.sqrt(np.mean(values**2)))
    return None if abs(rms - LARGEST_RMS) < 1e-6 * LARGEST_RMS else rms > LARGEST_RMS


@settings(
    max_examples=80,
    derandomize=False,
    print_blob=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_deviation_is_refused_with_no_patient_opened_and_nothing_spent(
    site: Site, data: st.DataObject
) -> None:
    received = dict(site.model)
    for edit in data.draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=3)):
        assume(received)
        edit(received, data)
        event(edit.__name__)
    assume(deviates(received, site.model))
    training = data.draw(st.booleans()) or not site.study.evaluations
    fields = {"protocol": site.study.to_toml(), "round": 1 if training else 4, "arrays": received}
    request = (TrainRequest if training else EvaluateRequest).model_validate(fields)
    before = site.ledger()
    reply = messages.decode(site.vault.handle(messages.encode(request)))
    assert isinstance(reply, Refusal)
    assert reply.code in ("E-MODEL", "E-MESSAGE")
    assert site.opened == []
    assert site.ledger() == before


def test_a_model_of_the_study_gets_to_the_patients(site: Site) -> None:
    """What the test above counts, it does count: by the call, and by what was opened on disk."""
    request = TrainRequest(protocol=site.study.to_toml(), round=1, arrays=site.model)
    reply = messages.decode(site.vault.handle(messages.encode(request)))
    assert isinstance(reply, Refusal)
    assert reply.code == "E-INTERNAL"
    assert len(site.opened) == 3  # the call, the list of files and the file
    assert site.ledger()[1] == 2
