"""The vault from frame to frame: what it answers, what it spends, and what never leaves."""

import csv
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from PIL import Image

from client import vault as vault_module
from client.egress import release
from client.egress_log import EgressLog
from client.ledger import Account, Ledger, Spend
from client.policy import SitePolicy
from client.privacy.accounting import epsilon_of
from client.privacy.budget import ACCOUNTS
from client.readers import open_cohort
from client.terms import terms_of
from client.vault import Vault
from common import arrays, messages
from common.arrays import Arrays
from common.errors import EgressError, InternalError
from common.files import locked
from common.messages import (
    EvaluateReply,
    EvaluateRequest,
    HelloReply,
    HelloRequest,
    Refusal,
    TrainReply,
    TrainRequest,
)
from common.model_spec import model_of, update_spec
from common.protocol import StudyProtocol
from common.tasks import bins_of
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.phantoms import phantoms_of
from tests.golden import exact_epsilon
from tests.hospital import LIMITS, approved
from tests.tasks import TASKS, small

MakeStudy = Callable[..., NoduleStudy]
CANARY = "SECRET^PATIENT"


class Site:
    """A hospital of eight patients, six for training, whose ids and paths carry the canary."""

    def __init__(self, root: Path, study: NoduleStudy) -> None:
        self.study = study
        self.data, self.state = root / CANARY, root / "state"
        self.data.mkdir(parents=True)
        self.state.mkdir(parents=True)
        self.write_patients()
        approved(self.policy())

    def write_patients(self) -> None:
        generator = np.random.default_rng(3)
        rows = [("image", "label", "patient_id", "split")]
        for patient in range(8):
            for image in range(1 + patient % 3):
                name = f"{CANARY}-{patient}-{image}.png"
                pixels = generator.integers(0, 256, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(self.data / name)
                label = self.study.images.classes[(patient + image) % 2]
                side = "validation" if patient >= 6 else "training"
                rows.append((name, label, f"{CANARY}-{patient}", side))
        with (self.data / "manifest.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    def policy(self, **changes: Any) -> SitePolicy:
        fields: dict[str, Any] = {
            "hospital": "north",
            "data": self.data,
            "state": self.state,
            "device": "cpu",
            "approved_studies": [self.study.digest],
            "max_epsilon": 30.0,
            "limits": LIMITS,
        }
        return SitePolicy.model_validate(fields | changes)

    def unapproved(self) -> Vault:
        """A vault whose books are as they lie there."""
        return Vault(self.policy())

    def vault(self, **changes: Any) -> Vault:
        return Vault(approved(self.policy(**changes)))

    def spends(self, account: Account = "training") -> list[Spend]:
        with Ledger.read(self.state) as ledger:
            return ledger.spends(account)


class AnySite(Site):
    """The same at a hospital in a study of any task."""

    study: Any

    def write_patients(self) -> None:
        names = [f"{CANARY}-{number}" for number in range(24)]
        phantoms_of(self.study.task).write(self.study, self.data, names, 0, seed=3)

    @property
    def judged(self) -> int:
        """Releases of a histogram in a round."""
        return int(self.study.evaluates(1))


@pytest.fixture
def site(tmp_path: Path, small_study: MakeStudy) -> Site:
    return Site(tmp_path, small_study())


@pytest.fixture(params=TASKS)
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> AnySite:
    return AnySite(tmp_path, cast(Any, small(request.param)))


@pytest.fixture
def no_patient_is_opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that a vault asked for, which must stay empty; asking fails the request."""
    opened: list[Path] = []

    def forbidden(_: NoduleStudy, policy: SitePolicy, **__: object) -> NoReturn:
        opened.append(policy.data)
        raise AssertionError("patients were opened")

    monkeypatch.setattr(vault_module, "open_cohort", forbidden)
    return opened


def model(study: StudyProtocol, seed: int = 1) -> Arrays:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = model_of(study)
    return {name: value.numpy() for name, value in built.state_dict().items()}


def train_frame(study: StudyProtocol, server_round: int = 1, seed: int = 1) -> bytes:
    request = TrainRequest(protocol=study.to_toml(), round=server_round, arrays=model(study, seed))
    return messages.encode(request)


def refusal(frame: bytes) -> str:
    reply = messages.decode(frame)
    assert isinstance(reply, Refusal)
    return reply.code


def no_canary(frame: bytes) -> bool:
    return not any(word.encode() in frame for word in ("SECRET", "PATIENT", "/data", "manifest"))


def failing(*_: object, **__: object) -> NoReturn:
    raise RuntimeError(f"{CANARY} /data/secret")


def test_a_train_request_is_answered_with_an_update(any_site: AnySite) -> None:
    study, asked = any_site.study, train_frame(any_site.study)
    reply = messages.decode(any_site.vault().handle(asked))
    assert isinstance(reply, TrainReply)
    arrays.check(reply.arrays, update_spec(study))
    assert (reply.study, reply.round) == (study.digest, 1)
    assert reply.request == messages.fingerprint(messages.decode(asked))
    assert (reply.histogram is not None) == any_site.judged
    assert reply.histogram is None or messages.is_histogram(reply.histogram, bins_of(study))
    assert all(np.any(array) for array in reply.arrays.values())


def test_what_was_answered_was_reserved_and_sealed(any_site: AnySite) -> None:
    study = any_site.study
    frame = any_site.vault().handle(train_frame(study))
    (training,), validation = any_site.spends("training"), any_site.spends("validation")
    asked = study.training
    assert (training.sampling_rate, training.steps) == (asked.sampling_rate, asked.steps_per_round)
    assert [(spend.sampling_rate, spend.steps) for spend in validation] == [
        (1.0, 1)
    ] * any_site.judged
    assert min(spend.noise_multiplier for spend in (training, *validation)) > 0.5
    with Ledger.open(any_site.state) as ledger:
        request = messages.fingerprint(messages.decode(train_frame(study)))
        assert ledger.sealed_reply(request) == frame


def test_the_reservation_is_durable_before_patients_are_opened(
    any_site: AnySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    opened, sealed, released = open_cohort, Ledger.seal, release

    def spied_open(*arguments: Any, **named: Any) -> Any:
        # Another connection's view.
        assert len(any_site.spends()) == 1
        assert len(any_site.spends("validation")) == any_site.judged
        order.append("open")
        return opened(*arguments, **named)

    def spied_release(*arguments: Any) -> bytes:
        order.append("release")
        return released(*arguments)

    def spied_seal(self: Ledger, request: str, reply: bytes, egress_head: str) -> None:
        order.append("seal")
        sealed(self, request, reply, egress_head)

    monkeypatch.setattr(vault_module, "open_cohort", spied_open)
    monkeypatch.setattr(vault_module, "release", spied_release)
    monkeypatch.setattr(Ledger, "seal", spied_seal)
    any_site.vault().handle(train_frame(any_site.study))
    assert order == ["open", "seal", "release"]


def test_a_reply_that_cannot_be_sealed_does_not_leave(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "seal", failing)
    assert refusal(site.vault().handle(train_frame(site.study))) == "E-INTERNAL"
    assert len(site.spends()) == 1


def test_the_same_request_gets_the_same_bytes_and_spends_once(any_site: AnySite) -> None:
    asked = train_frame(any_site.study)
    first = any_site.vault().handle(asked)
    again = any_site.vault()
    assert [again.handle(asked) for _ in range(2)] == [first, first]
    assert len(any_site.spends()) == 1
    assert len(any_site.spends("validation")) == any_site.judged


def test_another_model_for_the_same_round_is_a_new_spend(site: Site) -> None:
    vault = site.vault()
    one, other = (vault.handle(train_frame(site.study, seed=seed)) for seed in (1, 2))
    assert one != other
    assert len(site.spends()) == len(site.spends("validation")) == 2


def test_an_evaluate_request_costs_the_validation_patients_only(any_site: AnySite) -> None:
    study = any_site.study
    request = EvaluateRequest(protocol=study.to_toml(), round=4, arrays=model(study))
    frame = any_site.vault().handle(messages.encode(request))
    assert any_site.spends("training") == []
    assert len(any_site.spends("validation")) == any_site.judged
    if not any_site.judged:
        assert refusal(frame) == "E-POLICY-ROUNDS"
        return
    reply = messages.decode(frame)
    assert isinstance(reply, EvaluateReply)
    assert not reply.arrays
    assert reply.histogram is not None
    assert [len(row) for row in reply.histogram] == [bins_of(study)] * 2


def test_hello_names_the_hospital_and_opens_nothing(
    site: Site, no_patient_is_opened: list[Path]
) -> None:
    reply = messages.decode(site.vault().handle(messages.encode(HelloRequest())))
    assert reply == HelloReply(hospital="north")
    assert not no_patient_is_opened


def test_an_unapproved_study_opens_no_patient_and_spends_nothing(
    any_site: AnySite, no_patient_is_opened: list[Path]
) -> None:
    asked = train_frame(any_site.study)
    assert refusal(any_site.vault(approved_studies=["0" * 64]).handle(asked)) == "E-POLICY-STUDY"
    assert not no_patient_is_opened
    assert any_site.spends() == []


def test_a_protocol_that_is_none_is_refused(site: Site, no_patient_is_opened: list[Path]) -> None:
    request = TrainRequest(protocol="rounds = 'many'", round=1, arrays=model(site.study))
    assert refusal(site.vault().handle(messages.encode(request))) == "E-PROTOCOL"
    assert not no_patient_is_opened


def reshaped(received: Arrays) -> Arrays:
    return received | {"classifier.bias": np.zeros(3, np.float32)}


def not_finite(received: Arrays) -> Arrays:
    return received | {"classifier.bias": np.array([0, np.nan], np.float32)}


def double(received: Arrays) -> Arrays:
    return received | {"classifier.bias": np.zeros(2)}  # type: ignore[return-value]


def extra(received: Arrays) -> Arrays:
    return received | {"trap": np.zeros(2, np.float32)}


def shorter(received: Arrays) -> Arrays:
    return dict(list(received.items())[1:])


def reordered(received: Arrays) -> Arrays:
    return dict(reversed(received.items()))


@pytest.mark.parametrize("change", [reshaped, not_finite, double, extra, shorter, reordered])
def test_a_wrong_model_is_refused_before_patients_are_opened(
    site: Site, no_patient_is_opened: list[Path], change: Callable[[Arrays], Arrays]
) -> None:
    wrong = change(model(site.study))
    request = TrainRequest(protocol=site.study.to_toml(), round=1, arrays=wrong)
    assert refusal(site.vault().handle(messages.encode(request))) == "E-MODEL"
    assert not no_patient_is_opened
    assert site.spends() == []


@pytest.mark.slow
@pytest.mark.parametrize("account", ["training", "validation"])
def test_a_budget_that_is_spent_refuses_and_spends_nothing(
    site: Site, no_patient_is_opened: list[Path], account: Account
) -> None:
    with Ledger.open(site.state) as ledger:  # another study on the same patients
        earlier = {account: Spend(0.5, 1.0, 10)}
        ledger.reserve("c" * 64, "earlier", 1, earlier, {"validation-fraction": 0.2})
    assert refusal(site.vault().handle(train_frame(site.study))) == "E-POLICY-BUDGET"
    assert not no_patient_is_opened
    assert sum(len(site.spends(name)) for name in ("training", "validation")) == 1


@pytest.mark.slow
def test_the_cap_holds_over_rounds_and_restarts(site: Site) -> None:
    """More noise from the first round on, and no round beyond those that it was made for."""
    cap = 7.0  # the study asks for 8 over its three rounds
    codes = []
    for server_round, seed in ((1, 1), (2, 1), (3, 1), (3, 2)):
        reply = messages.decode(
            site.vault(max_epsilon=cap).handle(train_frame(site.study, server_round, seed))
        )
        codes.append(reply.code if isinstance(reply, Refusal) else reply.kind)
    assert codes == ["train-reply", "train-reply", "train-reply", "E-POLICY-BUDGET"]
    assert 0.997 * cap <= epsilon_of(site.spends(), 1e-5).value <= cap


def test_no_ledger_no_training(site: Site, no_patient_is_opened: list[Path]) -> None:
    (site.state / "ledger.sqlite").unlink()
    assert refusal(site.vault().handle(train_frame(site.study))) == "E-LEDGER"
    assert not no_patient_is_opened


def test_a_damaged_ledger_no_training(site: Site, no_patient_is_opened: list[Path]) -> None:
    (site.state / "ledger.sqlite").write_bytes(b"garbage" * 1000)
    assert refusal(site.vault().handle(train_frame(site.study))) == "E-LEDGER"
    assert not no_patient_is_opened


def test_broken_data_is_refused_and_the_spend_stays_reserved(any_site: AnySite) -> None:
    for file in any_site.data.iterdir():
        file.write_bytes(b"\xff neither an image nor a table")
    frame = any_site.vault().handle(train_frame(any_site.study))
    assert refusal(frame) == "E-DATA"
    assert no_canary(frame)
    assert len(any_site.spends()) == 1


PLACES = ["train", "evaluate", "open_cohort", "load_model", "keep_scores", "noised"]
PLACES += ["parse_protocol", "permit", "price"]


@pytest.mark.parametrize("place", PLACES)
def test_an_unexpected_error_leaves_as_a_code_and_a_fixed_text(
    site: Site, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(vault_module, place, failing)
    frame = site.vault().handle(train_frame(site.study))
    assert frame == messages.encode(Refusal.of(InternalError()))
    assert no_canary(frame)


def test_what_was_reserved_and_never_sealed_counts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(vault_module, "train", failing)
        assert refusal(site.vault().handle(train_frame(site.study))) == "E-INTERNAL"
    (reserved,) = site.spends()
    assert isinstance(messages.decode(site.vault().handle(train_frame(site.study))), TrainReply)
    # Nothing had left: there is one release, and the one spend that was reserved for it.
    assert site.spends() == [reserved]


@pytest.mark.parametrize(
    ("changes", "spends"),
    [({}, 1), ({"max_epsilon": 29.0}, 2), ({"rehearsal": True, "noise_seed": 7}, 2)],
)
def test_an_interrupted_request_goes_on_under_its_own_terms_only(
    site: Site, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], spends: int
) -> None:
    """A ledger that says "operating system" may not stand for a reply whose noise had a seed."""
    with monkeypatch.context() as broken:
        broken.setattr(vault_module, "train", failing)
        site.vault().handle(train_frame(site.study))
    reply = messages.decode(site.vault(**changes).handle(train_frame(site.study)))
    assert isinstance(reply, TrainReply)
    with Ledger.read(site.state) as ledger:
        reservations = ledger.reservations()
        assert reply.ledger_head == reservations[-1].head
    assert len(reservations) == spends
    assert reservations[-1].terms == terms_of(site.study, site.policy(**changes))


def test_an_interrupted_request_does_not_outlive_a_stricter_cap(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(vault_module, "train", failing)
        site.vault().handle(train_frame(site.study))
    strict = site.vault(max_epsilon=0.5)
    assert refusal(strict.handle(train_frame(site.study))) == "E-POLICY-BUDGET"


def test_replies_name_their_reservation_and_the_reply_before(site: Site) -> None:
    replies = []
    for server_round in (1, 2, 3):
        reply = messages.decode(site.vault().handle(train_frame(site.study, server_round)))
        assert isinstance(reply, TrainReply)
        replies.append(reply)
    heads = [reply.ledger_head for reply in replies]
    assert [reply.previous_head for reply in replies] == [None, *heads[:2]]
    with Ledger.read(site.state) as ledger:
        assert [reservation.head for reservation in ledger.reservations()] == heads


def test_no_reply_carries_the_canary(any_site: AnySite) -> None:
    study, vault = any_site.study, any_site.vault()
    frames = [vault.handle(train_frame(study, n)) for n in (1, 2)]
    evaluate = EvaluateRequest(protocol=study.to_toml(), round=4, arrays=model(study))
    frames.append(vault.handle(messages.encode(evaluate)))
    frames.append(vault.handle(messages.encode(HelloRequest())))
    for table in any_site.data.glob("*.csv"):
        table.write_text(f"{table.read_text().splitlines()[0]}\n{CANARY},{CANARY},{CANARY}\n")
    frames.append(any_site.vault().handle(train_frame(study, 3)))
    kinds = [messages.decode(frame).kind for frame in frames]
    last = "evaluate-reply" if any_site.judged else "refusal"
    assert kinds == ["train-reply", "train-reply", last, "hello-reply", "refusal"]
    assert all(no_canary(frame) for frame in frames)


REPLY = messages.encode(HelloReply(hospital="south"))


@pytest.mark.parametrize(
    "frame", [b"", b"garbage", REPLY, REPLY[:-1], messages.MAGIC + b"\xff" * 40]
)
def test_what_is_no_request_is_refused(site: Site, frame: bytes) -> None:
    assert refusal(site.vault().handle(frame)) == "E-MESSAGE"
    assert site.spends() == []


def test_a_vault_that_is_busy_refuses(site: Site) -> None:
    with locked(site.state / "ledger.lock"):
        assert refusal(site.vault().handle(train_frame(site.study))) == "E-LEDGER"
    assert site.spends() == []


def test_restarts_between_rounds_compose_as_one_account(any_site: AnySite) -> None:
    one_accountant, asked = PRVAccountant(), any_site.study.training
    for server_round in (1, 2, 3):
        any_site.vault().handle(train_frame(any_site.study, server_round))
        noise = any_site.spends()[-1].noise_multiplier
        for _ in range(asked.steps_per_round):
            one_accountant.step(noise_multiplier=noise, sample_rate=asked.sampling_rate)
    total = epsilon_of(any_site.spends(), 1e-5).value
    if asked.sampling_rate < 1:
        truth = one_accountant.get_epsilon(1e-5)
    else:  # which has a closed form, and Opacus' accountant divides by zero
        truth = exact_epsilon.gaussian(noise, 3 * asked.steps_per_round, 1e-5)
    assert total == pytest.approx(truth, rel=3e-3)
    assert 0.997 * 8.0 <= total <= 8.0  # the study's own epsilon, spent over all its rounds


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_bytes_and_no_seed_others(tmp_path: Path, task: str) -> None:
    def answer(name: str, **changes: Any) -> bytes:
        """All of the reply but the heads of the ledger, which hold times."""
        site = AnySite(tmp_path / name, cast(Any, small(task)))
        reply = messages.decode(site.vault(**changes).handle(train_frame(site.study)))
        assert isinstance(reply, TrainReply)
        timed = {"ledger_head": "0" * 64, "policy": "0" * 64}
        return messages.encode(reply.model_copy(update=timed))

    seeded = [answer(name, rehearsal=True, noise_seed=7) for name in ("a", "b")]
    assert seeded[0] == seeded[1]
    others = [answer("c", rehearsal=True, noise_seed=8), answer("d"), answer("e")]
    assert len({seeded[0], *others}) == 4


def test_a_cohort_is_read_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = site.vault()
    vault.handle(train_frame(site.study))
    monkeypatch.setattr(vault_module, "open_cohort", failing)
    assert isinstance(messages.decode(vault.handle(train_frame(site.study, 2))), TrainReply)


def test_one_patient_more_changes_neither_length_nor_header_of_a_reply(
    tmp_path: Path, small_study: MakeStudy
) -> None:
    replies = []
    for name, gone in (("whole", ()), ("without", (0,)), ("few", (0, 1, 2, 3, 4))):
        site = Site(tmp_path / name, small_study())
        manifest = site.data / "manifest.csv"
        rows = manifest.read_text().splitlines()
        kept = [r for r in rows if not any(f"{CANARY}-{patient}," in r for patient in gone)]
        manifest.write_text("\n".join(kept) + "\n")
        replies.append((messages.decode(site.vault().handle(train_frame(site.study))), site))
    (first, one), *rest = replies
    assert isinstance(first, TrainReply)
    for reply, other in rest:
        assert isinstance(reply, TrainReply)
        own = {"histogram", "ledger_head", "policy"}  # noise; the times in both books
        assert reply.model_dump(exclude=own) == first.model_dump(exclude=own)
        sizes = [{name: array.nbytes for name, array in r.arrays.items()} for r in (first, reply)]
        assert sizes[0] == sizes[1]
        assert [other.spends(a) for a in ("training", "validation")] == [
            one.spends(a) for a in ("training", "validation")
        ]


def test_a_small_class_is_suppressed_and_paid_for_all_the_same(site: Site) -> None:
    """Two validation patients, one of them in both classes: released from one a class on."""
    for least, server_round, suppressed in ((1, 1, False), (2, 2, True), (3, 3, True)):
        vault = site.vault(limits=LIMITS | {"smallest-group": least})
        reply = messages.decode(vault.handle(train_frame(site.study, server_round)))
        assert isinstance(reply, TrainReply)
        assert reply.suppressed is suppressed
        assert (reply.histogram is None, reply.histogram_noise is None) == (suppressed, suppressed)
        assert len(site.spends("validation")) == server_round


def test_a_policy_that_changed_since_its_approval_permits_nothing(
    site: Site, no_patient_is_opened: list[Path]
) -> None:
    changed = Vault(site.policy(max_epsilon=30.5))
    for _ in range(2):
        assert refusal(changed.handle(train_frame(site.study))) == "E-POLICY-CHANGED"
    assert not no_patient_is_opened
    assert site.spends() == []
    EgressLog(site.state).approve(changed.policy.digest, None)
    reply = messages.decode(changed.handle(messages.encode(HelloRequest())))
    assert isinstance(reply, HelloReply)


def test_what_cannot_be_written_down_does_not_leave(site: Site) -> None:
    (site.state / "egress.jsonl").unlink()
    with pytest.raises(EgressError, match="expected the egress log"):
        site.unapproved().handle(train_frame(site.study))
    assert site.spends() == []


def test_outside_its_hours_a_hospital_computes_nothing_and_repeats_what_is_sealed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2026, 11, 25, hour, 30, tzinfo=tz)

    monkeypatch.setattr(vault_module, "datetime", Clock)
    vault = site.vault(limits=LIMITS | {"hours": "18:00-06:00"})
    hour = 12
    assert refusal(vault.handle(train_frame(site.study))) == "E-POLICY-HOURS"
    assert site.spends() == []
    hour = 23
    at_night = vault.handle(train_frame(site.study))
    assert isinstance(messages.decode(at_night), TrainReply)
    hour = 12
    assert vault.handle(train_frame(site.study)) == at_night


def test_a_floor_under_the_noise_is_used_and_stated(any_site: AnySite) -> None:
    floor = 7.5
    vault = any_site.vault(limits=LIMITS | {"min-noise-multiplier": floor})
    reply = messages.decode(vault.handle(train_frame(any_site.study)))
    assert isinstance(reply, TrainReply)
    assert reply.noise_multiplier == floor
    assert reply.histogram_noise == (floor if any_site.judged else None)
    assert {s.noise_multiplier for a in ACCOUNTS for s in any_site.spends(a)} == {floor}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rehearsal", [False, True])
def test_no_privacy_is_a_rehearsals_alone(tmp_path: Path, task: str, rehearsal: bool) -> None:
    site = AnySite(tmp_path, cast(Any, small(task, mechanism="none")))
    reply = messages.decode(site.vault(rehearsal=rehearsal).handle(train_frame(site.study)))
    assert isinstance(reply, TrainReply) == rehearsal
    assert [spend.noise_multiplier for spend in site.spends()] == [0.0] * rehearsal
