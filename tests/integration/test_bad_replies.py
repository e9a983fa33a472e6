"""One site's rubbish: the model is that of the others, to the bit, and the report names the site and why.

The replies are those with which Flower's own FedAvg was probed: NaN, infinite, huge, of another shape or
type, and lies about one's weight. Weights are public here, so a lie is one about the noise that they
come from.
"""

import json
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict
from html import unescape
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from rich.console import Console
from safetensors.numpy import save

from common import messages, records
from common.arrays import Arrays, norm
from common.bounds import largest_norm
from common.errors import CheckpointError
from common.messages import EvaluateReply, TrainReply
from common.protocol import StudyProtocol
from common.tasks import USUAL
from common.tasks.nodule_classification.study import NoduleStudy
from server.admission import REASONS
from server.asking import Asker, UnderWay
from server.deployed_facts import gather
from server.flags import WORDS, rounds_flagged
from server.home import Outcome as Ended
from server.report import write_report
from server.status import as_table, closed_rounds
from tests.answering import (
    NAMES,
    NODES,
    Answer,
    FakeGrid,
    Hospital,
    Request,
    Watcher,
    all_honest,
    bits,
    honest,
    refusing,
    run,
    start,
    trained_spec,
    update,
)
from tests.tasks import TASKS, small
from tests.tasks import changed as with_tables

pytestmark = pytest.mark.slow  # seconds together

ROUNDS = 2


@pytest.fixture(autouse=True)
def _flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "report.learning_curve_svg",
        "sections.judgement.roc_svg",
        "sections.judgement.calibration_svg",
    ):
        monkeypatch.setattr(f"server.{name}", lambda *_: "<svg></svg>")


def study(
    strategy: str = "fedavg", mechanism: str = "dp-sgd", rounds: int = ROUNDS, **settings: Any
) -> NoduleStudy:
    return NoduleStudy.model_validate(
        {
            "study": "a-study",
            "rounds": rounds,
            "images": {"classes": ["no", "yes"], "size": 16},
            "model": {"initial-model": "random"},
            "training": {"steps-per-round": 1, "learning-rate": 0.1, "sampling-rate": 0.5},
            "privacy": {"mechanism": mechanism},
            "aggregation": {"strategy": strategy, **settings},
            "participation": {"quorum": 2, "grace-seconds": 0.0},
            "hospitals": [
                {"name": name, "nominal-patients": patients}
                for name, patients in (("north", 60), ("east", 40), ("south", 24), ("west", 8))
            ],
        }
    )


# --- what a site may send in place of its update -----------------------------------------------


def with_value(value: float) -> Callable[[TrainReply], Answer]:
    def change(reply: TrainReply) -> Answer:
        arrays = {name: array.copy() for name, array in reply.arrays.items()}
        next(iter(arrays.values())).flat[0] = value
        return reply.model_copy(update={"arrays": arrays})

    return change


def with_arrays(change: Callable[[Any], Any]) -> Callable[[TrainReply], Answer]:
    return lambda reply: reply.model_copy(
        update={"arrays": {name: change(array) for name, array in reply.arrays.items()}}
    )


def stating(noise: float) -> Callable[[TrainReply], Answer]:
    """A frame written by hand: our own encoder refuses to say some of these."""

    def change(reply: TrainReply) -> Answer:
        fields = json.loads(messages.header_of(reply)) | {"noise_multiplier": noise}
        header = json.dumps(fields).encode()
        return framed(messages.MAGIC + struct.pack("<I", len(header)) + header + save(reply.arrays))

    return change


def framed(data: bytes) -> RecordDict:
    frame = Array(np.frombuffer(data, np.uint8))
    return RecordDict({records.FRAME: ArrayRecord({records.FRAME: frame})})


def changed(good: Hospital, change: Callable[[TrainReply], Answer]) -> Hospital:
    def answer(request: Request) -> Answer:
        reply = good(request)
        return change(reply) if isinstance(reply, TrainReply) else reply

    return answer


# Who sends what, and with which code it is refused. "east" is the first to be averaged, "west" the
# last, "north" has the largest weight.
TWELVE: dict[str, tuple[str, Callable[[TrainReply], Answer], str]] = {
    "one NaN": ("north", with_value(np.nan), "E-REPLY-FINITE"),
    "one Inf": ("north", with_value(np.inf), "E-REPLY-FINITE"),
    "one 1e30": ("north", with_value(1e30), "E-REPLY-SIZE"),
    "weight takeover": ("west", stating(1e-12), "E-REPLY-NOISE"),
    "negative weight": ("north", stating(-99.0), "E-MESSAGE"),
    "weight NaN": ("north", stating(float("nan")), "E-MESSAGE"),
    "weight zero": ("north", stating(0.0), "E-REPLY-NOISE"),
    "weight nothing": ("north", stating(1e8), "E-REPLY-NOISE"),
    "shape (1,) second": ("west", with_arrays(lambda a: a.reshape(-1)[:1]), "E-REPLY-ARRAYS"),
    "shape (1,) first": ("east", with_arrays(lambda a: a.reshape(-1)[:1]), "E-REPLY-ARRAYS"),
    "another shape": ("north", with_arrays(lambda a: a.reshape(-1)[:2]), "E-REPLY-ARRAYS"),
    "dtype int8": ("north", with_arrays(lambda a: np.ones(a.shape, np.int8)), "E-REPLY-ARRAYS"),
}
MORE: dict[str, tuple[str, Callable[[TrainReply], Answer], str]] = {
    "fifty times its update": ("north", with_arrays(lambda a: 50 * a), "E-REPLY-NORM"),
    "a reply for a far larger model": ("north", lambda _: framed(bytes(1 << 20)), "E-REPLY-BYTES"),
}


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "fedtrimmedavg", "krum", "fedadam"])
@pytest.mark.parametrize("case", [*TWELVE, *MORE])
def test_the_model_is_that_of_the_good_ones_and_the_report_names_the_site(
    case: str, strategy: str, tmp_path: Path
) -> None:
    protocol = study(strategy)
    model_and_report_are_of_the_good_ones(protocol, case, tmp_path)


@pytest.mark.parametrize("task", [task for task in TASKS if task != USUAL])
@pytest.mark.parametrize("case", ["one NaN", "one 1e30", "weight takeover", "shape (1,) second"])
def test_so_it_is_in_every_task_with_a_model_of_its_own(
    case: str, task: str, tmp_path: Path
) -> None:
    cohorts = {name: study().hospital(name).nominal_patients for name in NAMES}
    protocol = with_tables(
        small(task, "dp-sgd", ROUNDS, **cohorts), participation={"quorum": 2, "grace-seconds": 0.0}
    ).model_copy(update={"study": "real"})
    model_and_report_are_of_the_good_ones(protocol, case, tmp_path)


def model_and_report_are_of_the_good_ones(
    protocol: StudyProtocol, case: str, tmp_path: Path
) -> None:
    site, change, code = {**TWELVE, **MORE}[case]
    hospitals = all_honest(protocol)
    hospitals[site] = changed(hospitals[site], change)
    outcome = run(protocol, hospitals, tmp_path / "with")
    assert outcome.stopped == "finished"
    # A site whose training is refused in words has nothing in the model either.
    good = honest(protocol, site)
    hospitals[site] = lambda r: refusing(r) if r.round <= ROUNDS else good(r)
    without = run(protocol, hospitals, tmp_path / "without")
    assert bits(outcome.state.arrays) == bits(without.state.arrays)
    assert bits(outcome.state.arrays) != bits(start(protocol).arrays)
    for record in outcome.state.records:
        assert record.refused == {site: code}
        assert record.answered == [name for name in NAMES if name != site]
    ended = Ended(stopped=outcome.stopped)
    facts = gather(protocol, list(outcome.state.records), ended)
    html = unescape(write_report(tmp_path, facts).read_text())
    if code in REASONS:
        assert f"<li>{site}: reply not used in rounds 1–2, {REASONS[code]} (<code>{code}" in html
    else:
        assert f"<li>{site} refused with <code>{code}</code> in rounds 1–2" in html


# --- what is admitted, and what the report says of it ------------------------------------------

HELD_BACK: dict[str, Any] = {"histogram": None, "histogram_noise": None, "suppressed": True}


def saying(good: Hospital, first: int, **changes: Any) -> Hospital:
    """`good`, whose answers say something else from round `first` on."""

    def answer(request: Request) -> Answer:
        reply = good(request)
        assert isinstance(reply, TrainReply | EvaluateReply)
        return reply.model_copy(update=changes) if request.round >= first else reply

    return answer


def report_of(protocol: NoduleStudy, hospitals: dict[str, Hospital], folder: Path) -> str:
    outcome = run(protocol, hospitals, folder)
    ended = Ended(stopped=outcome.stopped, last=asdict(outcome.last))
    facts = gather(protocol, closed_rounds(folder), ended)
    return unescape(write_report(folder, facts).read_text())


def test_a_report_says_who_held_back_and_who_changed_its_policy(tmp_path: Path) -> None:
    protocol = study()
    hospitals = all_honest(protocol)
    hospitals["west"] = saying(hospitals["west"], 1, **HELD_BACK)
    hospitals["south"] = saying(hospitals["south"], ROUNDS + 1, policy="f" * 64)
    html = report_of(protocol, hospitals, tmp_path)
    assert "Released by 3 of 4 hospitals; west has fewer patients in a group than its own" in html
    assert "west released no histogram in rounds 1–3" in html
    assert f"south changed its site policy before its answer of round {ROUNDS + 1}" in html


def test_a_report_copes_when_all_hold_back(tmp_path: Path) -> None:
    protocol = study()
    hospitals = {name: saying(honest(protocol, name), 1, **HELD_BACK) for name in NAMES}
    html = report_of(protocol, hospitals, tmp_path)
    assert "No hospital released a histogram" in html
    assert "Released by none of 4 hospitals" in html


def test_an_echo_is_in_the_report_and_in_the_status_by_name(tmp_path: Path) -> None:
    protocol = study()
    hospitals = all_honest(protocol)
    hospitals["south"] = changed(hospitals["south"], with_arrays(np.zeros_like))
    html = report_of(protocol, hospitals, tmp_path)
    assert f"<li><strong>south</strong>, rounds 1–2: {WORDS['FLAG-ECHO']}" in html
    flags = rounds_flagged(closed_rounds(tmp_path))
    assert [whose for whose, code in flags if code == "FLAG-ECHO"] == ["south"]
    about = {"nominal_patients": 24, "days_left": 9, "flags": {"FLAG-ECHO": [1, 2]}}
    found = {
        "coordinator": "running",
        "services": {},
        "run": None,
        "certificate_days_left": {"ca": 9, "server": 9},
        "hospitals": {"south": about},
    }
    console = Console(width=200, record=True, file=StringIO())
    console.print(as_table(found))
    assert f"warning: south: {WORDS['FLAG-ECHO']} (round 1–2)" in console.export_text()


def test_a_round_written_by_another_version_is_refused_in_words(tmp_path: Path) -> None:
    protocol = study()
    run(protocol, all_honest(protocol), tmp_path)
    rounds = tmp_path / "rounds.jsonl"
    rounds.write_text(rounds.read_text().replace('"late"', '"later"'))
    with pytest.raises(CheckpointError, match="the version of intramural that wrote it"):
        closed_rounds(tmp_path)


# --- what is admitted can still be extreme -----------------------------------------------------


def extreme(protocol: NoduleStudy, name: str) -> Hospital:
    """Just below the bound on its norm, all in one direction."""
    good = honest(protocol, name)
    spec = trained_spec(protocol)

    def answer(request: Request) -> Answer:
        reply = good(request)
        if not isinstance(reply, TrainReply):
            return reply
        ones: Arrays = {n: np.ones(shape, np.float32) for n, shape in spec.items()}
        nominal = protocol.hospital(name).nominal_patients
        values = sum(a.size for a in ones.values())
        most = largest_norm(protocol, nominal, reply.noise_multiplier, values)
        scale = np.float32(0.99 * min(most, 1e5) / norm(ones))
        return reply.model_copy(update={"arrays": {n: scale * a for n, a in ones.items()}})

    return answer


@pytest.mark.parametrize("mechanism", ["dp-sgd", "none"])
@pytest.mark.parametrize(
    ("strategy", "settings", "robust"),
    [
        ("fedavg", {}, False),
        ("fedmedian", {}, True),
        ("fedtrimmedavg", {"trimmed-fraction": 0.25}, True),
        ("krum", {"malicious-hospitals": 1}, True),
    ],
)
def test_robust_strategies_stay_near_the_good_ones_where_the_mean_does_not(
    strategy: str, settings: Mapping[str, Any], robust: bool, mechanism: str, tmp_path: Path
) -> None:
    """Near: no value further out than those of the good updates are."""
    protocol = study(strategy, mechanism, 1, **settings)
    noise = dict.fromkeys(NAMES, 0.0 if mechanism == "none" else 2.0)
    hospitals = all_honest(protocol, noise) | {"north": extreme(protocol, "north")}
    if mechanism == "none":
        stated = changed(
            hospitals["north"], lambda r: r.model_copy(update={"noise_multiplier": 0.0})
        )
        hospitals["north"] = stated
    state = run(protocol, hospitals, tmp_path).state
    assert state.records[0].answered == list(NAMES)  # admitted
    before = start(protocol).arrays
    inside = []
    for name in trained_spec(protocol):
        good = np.stack([update(protocol, h, 1, before)[name] for h in ("east", "south", "west")])
        moved = state.arrays[name] - before[name]
        inside.append((moved >= good.min(0) - 1e-5) & (moved <= good.max(0) + 1e-5))
    assert all(array.all() for array in inside) is robust


# --- what is not opened ------------------------------------------------------------------------


def asker(protocol: NoduleStudy, grid: FakeGrid) -> Asker:
    return Asker(protocol, grid, grid.attendance, trained_spec(protocol), Watcher(), Event(), 0.01)


def test_a_reply_of_absurd_size_is_refused_with_memory_flat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """200 MB that are there anyway; nothing is parsed and nothing copied."""
    protocol = study()
    grid = FakeGrid(all_honest(protocol))
    asked = Message(RecordDict(), dst_node_id=NODES["north"], message_type="train")
    reply = Message(framed(bytes(200 << 20)), reply_to=asked)
    opened = asker(protocol, grid)
    monkeypatch.setattr(records, "from_records", lambda _: pytest.fail("it was parsed"))
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match="E-REPLY-BYTES"):
            opened._opened(reply, UnderWay("north", NODES["north"], 1))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_a_study_needs_is_opened_and_a_little_more_is_not(tmp_path: Path) -> None:
    """The model's own bytes decide, not a fixed number: for the compact CNN 266 KB."""
    protocol = study().model_copy(update={"study": "real", "rounds": 1})
    honest_bytes = len(messages.encode(real_reply(protocol)))
    for more, code in ((0.05, "E-REPLY-ARRAYS"), (0.2, "E-REPLY-BYTES")):
        hospitals = all_honest(protocol)
        extra = np.zeros(int(more * honest_bytes / 4), np.float32)

        def larger(reply: TrainReply, extra: Any = extra) -> Answer:
            return reply.model_copy(update={"arrays": {**reply.arrays, "extra": extra}})

        hospitals["north"] = changed(hospitals["north"], larger)
        outcome = run(protocol, hospitals, tmp_path / code)
        assert outcome.state.records[0].refused == {"north": code}


def real_reply(protocol: NoduleStudy) -> TrainReply:
    request = messages.TrainRequest(
        protocol=protocol.to_toml(), round=1, arrays=start(protocol).arrays
    )
    reply = honest(protocol, "north")(request)
    assert isinstance(reply, TrainReply)
    return reply
