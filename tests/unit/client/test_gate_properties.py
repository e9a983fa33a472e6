"""The gate over many protocols and policies: never less noise, more steps or a larger epsilon than permitted.

A request goes permit -> price -> reserve, as in the vault. hypothesis draws from small grids, whose
calibrations are computed once, and prints how to repeat a failure (THREATS.md T3, T4).
"""

import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from client.ledger import Ledger, Spend
from client.policy import SitePolicy, load_policy, permit
from client.privacy.accounting import epsilon_of
from client.privacy.budget import ACCOUNTS, price
from client.terms import terms_of
from common.errors import PolicyError, ProtocolError
from common.protocol import StudyProtocol, parse_protocol
from common.tasks import USUAL, task_named
from tests.hospital import LIMITS, policy_of
from tests.tasks import TASKS, changed, small

DELTA = 1e-5
PROPERTY = settings(derandomize=False, print_blob=True, deadline=None, database=None)


def study(
    epsilon: float, rate: float, steps: int, rounds: int, every: int = 1, task: str = USUAL
) -> StudyProtocol:
    """Where a task has one step for all patients and judges nothing, `rate`, `steps`, `every` say nothing."""
    protocol = small(task, rounds=rounds, north=10)
    privacy = {"epsilon": epsilon, "validation-epsilon": epsilon, "delta": DELTA}
    if not protocol.evaluations:
        return changed(protocol, privacy=privacy)
    training = {"steps-per-round": steps, "sampling-rate": rate}
    return changed(protocol, privacy=privacy, training=training, evaluation={"every": every})


# What the policy allows, from what is asked: just so, more, less.
AROUND = st.sampled_from([0, 0, 0, 1, 1, -1])
REQUESTS = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=8)
EARLIER = Spend(4.0, 0.5, 4)  # of another study on the same patients

reached: Counter[str] = Counter()


def request(
    state: Path, protocol: StudyProtocol, policy: SitePolicy, asked: tuple[int, bool]
) -> None:
    """What the vault does with a request for a model that it was never asked for, before any patient."""
    server_round, training = asked
    permitted = permit(protocol, policy, server_round, training=training)
    with Ledger.open(state) as ledger:
        spends = price(protocol, server_round, ledger, permitted, training=training)
        number = len(ledger.entries)
        ledger.reserve(
            f"{number:064x}", protocol.digest, server_round, spends, terms_of(protocol, policy)
        )


def within(state: Path, protocol: StudyProtocol, policy: SitePolicy) -> None:
    """What the ledger says of this study, against protocol and policy, added up here."""
    limits = policy.limits
    with Ledger.read(state) as ledger:
        reservations = ledger.reservations(protocol.digest)
        everything = {account: ledger.spends(account) for account in ACCOUNTS}
    for account in ACCOUNTS:
        spends = [r.spends[account] for r in reservations if account in r.spends]
        assert all(s.noise_multiplier >= limits.min_noise_multiplier for s in spends)
        assert len({s.noise_multiplier for s in spends}) <= 1
        asked = protocol.privacy.epsilon
        assert epsilon_of(spends, DELTA).value <= min(asked, policy.max_epsilon)
        assert epsilon_of(everything[account], DELTA).value <= policy.max_epsilon
    training = [r for r in reservations if "training" in r.spends]
    steps = sum(r.spends["training"].steps for r in training)
    assert steps <= min(limits.max_steps, protocol.rounds * protocol.training.steps_per_round)
    assert len(training) <= min(limits.max_rounds, protocol.rounds)
    evaluations = sum("validation" in r.spends for r in reservations)
    assert evaluations <= min(limits.max_evaluations, protocol.evaluations)
    assert all(r.round <= protocol.rounds + ("training" not in r.spends) for r in reservations)


def over_the_grid(
    protocol: StudyProtocol,
    cap: float,
    floor: float,
    around: tuple[int, int, int],
    earlier: bool,
    whole: bool,
    requests: list[tuple[int, bool]],
) -> None:
    """`requests`, at times after all those of the `whole` study."""
    if whole:
        plan = [(server_round, True) for server_round in range(1, protocol.rounds + 1)]
        requests = [*plan, (protocol.rounds + 1, False), *requests]
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        limits = LIMITS | {
            "min-noise-multiplier": floor,
            "max-rounds": max(1, protocol.rounds + around[0]),
            "max-steps": max(1, protocol.total_steps + around[1]),
            "max-evaluations": max(0, protocol.evaluations + around[2]),
        }
        policy = policy_of(state, protocol.digest, max_epsilon=cap, limits=limits)
        Ledger.create(state)
        if earlier and epsilon_of([EARLIER], DELTA).value <= cap:
            with Ledger.open(state) as ledger:
                spent = {"training": EARLIER}
                ledger.reserve("e" * 64, "other", 1, spent, terms_of(protocol, policy))  # type: ignore[arg-type]
        for asked in requests:
            before = (state / "ledger.head").read_bytes()
            try:
                request(state, protocol, policy, asked)
                ended = "accepted"
            except PolicyError as error:
                ended = type(error).__name__
                assert (state / "ledger.head").read_bytes() == before
            reached[ended] += 1
            event(ended)
        within(state, protocol, policy)


def over_requests(task: str, examples: int) -> None:
    """`over_the_grid` for studies of one task: what must be tried, and what hypothesis draws."""
    drawn = given(
        protocol=st.builds(
            study,
            task=st.just(task),
            epsilon=st.sampled_from([1.0, 3.0, 8.0]),
            rate=st.sampled_from([0.1, 0.5]),
            steps=st.sampled_from([2, 4]),
            rounds=st.integers(1, 4),
            every=st.sampled_from([1, 3]),
        ),
        cap=st.sampled_from([0.5, 2.0, 8.0, 30.0]),
        floor=st.sampled_from([0.0, 0.7, 2.0, 50.0]),
        around=st.tuples(AROUND, AROUND, AROUND),
        earlier=st.booleans(),
        whole=st.booleans(),
        requests=REQUESTS,
    )(over_the_grid)
    usual = study(8.0, 0.5, 2, 2, task=task)
    for tried in (
        (usual, 30.0, 0.7, (0, 0, 0), False, True, [(3, False)]),
        (usual, 30.0, 0.7, (0, 0, 0), False, False, [(1, True)] * 4),
        (usual, 2.0, 0.0, (1, 1, 1), True, True, [(3, True)]),
        (usual, 30.0, 0.7, (0, -1, 0), False, True, [(1, True)]),
    ):
        drawn = example(*tried)(drawn)
    settings(PROPERTY, max_examples=examples)(drawn)()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_nothing_that_a_coordinator_asks_goes_beyond_what_is_permitted(task: str) -> None:
    reached.clear()
    over_requests(task, examples=30 if task == USUAL else 6)  # the gate is the same for all
    print(reached)
    assert reached.keys() >= {"accepted", "BudgetError", "RoundError", "LimitError"}


# --- keys


POLICY = tomllib.loads(policy_of(Path("/state"), "a" * 64).to_toml())
PROTOCOLS = {task: tomllib.loads(small(task).to_toml()) for task in TASKS}
VALUES = st.sampled_from([1, 0.5, True, "a", [], {}, ["a"], {"a": 1}])


def tables(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all tables of a TOML document."""
    if isinstance(document, list):
        return [place for n, one in enumerate(document) for place in tables(one, (*path, n))]
    if not isinstance(document, dict):
        return []
    below = (place for name, one in document.items() for place in tables(one, (*path, name)))
    return [path, *below]


def with_key(document: dict[str, Any], path: tuple[Any, ...], name: str, value: object) -> str:
    copy = tomllib.loads(tomli_w.dumps(document))
    table: Any = copy
    for step in path:
        table = table[step]
    table[name] = value
    return tomli_w.dumps(copy)


def known() -> set[str]:
    """All keys of either document, in any table: what is no good as a name that nobody knows."""
    models: list[Any] = [SitePolicy, *(task_named(task).study for task in TASKS)]
    names = set()
    for model in models:  # grows while it is read
        for field in model.model_fields.values():
            names.add(field.alias)
            inside = (field.annotation, *getattr(field.annotation, "__args__", ()))
            models += [one for one in inside if hasattr(one, "model_fields")]
    return names


KNOWN = known()
# Anything, and what a tired person writes: another case, a letter more, underscores.
NAMES = st.text(max_size=20) | st.sampled_from(sorted(KNOWN)).flatmap(
    lambda name: st.sampled_from([name.upper(), name + "s", name[:-1], f" {name}", f"{name}\u200b"])
)


@settings(PROPERTY, max_examples=60)
@given(path=st.sampled_from(tables(POLICY)), name=NAMES, value=VALUES)
def test_an_unknown_key_never_passes_a_policy(
    path: tuple[Any, ...], name: str, value: object
) -> None:
    assume(name not in KNOWN and name.replace("_", "-") not in KNOWN)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site.toml"
        site.write_text(tomli_w.dumps(POLICY), encoding="utf-8")
        load_policy(site)
        site.write_text(with_key(POLICY, path, name, value), encoding="utf-8")
        with pytest.raises(PolicyError, match="unknown key"):
            load_policy(site)


@pytest.mark.parametrize("task", TASKS)
@settings(PROPERTY, max_examples=60)
@given(data=st.data(), name=NAMES, value=VALUES)
def test_an_unknown_key_never_passes_a_protocol(
    task: str, data: st.DataObject, name: str, value: object
) -> None:
    protocol = PROTOCOLS[task]
    path = data.draw(st.sampled_from(tables(protocol)))
    assume(name not in KNOWN and name.replace("_", "-") not in KNOWN)
    parse_protocol(tomli_w.dumps(protocol))
    with pytest.raises(ProtocolError, match="unknown key"):
        parse_protocol(with_key(protocol, path, name, value))


@pytest.mark.parametrize("key", ["max-rounds", "min-noise-multiplier", "smallest-group"])
def test_a_key_in_two_spellings_does_not_pass(tmp_path: Path, key: str) -> None:
    """The wider of the two values would stand in the file and the other one count, or the reverse."""
    site = tmp_path / "site.toml"
    text = with_key(POLICY, ("limits",), key.replace("-", "_"), POLICY["limits"][key])
    site.write_text(text)
    with pytest.raises(PolicyError, match="unknown key"):
        load_policy(site)


@pytest.mark.parametrize(
    "path", [(name,) for name in ("limits", "max-epsilon", "approved-studies")]
)
@pytest.mark.parametrize("value", ["absent", "nan", "text"])
def test_a_policy_without_one_of_its_bounds_never_passes(
    tmp_path: Path, path: tuple[str], value: str
) -> None:
    copy = tomllib.loads(tomli_w.dumps(POLICY))
    without(copy, path[0], value)
    (tmp_path / "site.toml").write_text(tomli_w.dumps(copy))
    with pytest.raises(PolicyError, match=path[0]):
        load_policy(tmp_path / "site.toml")


@pytest.mark.parametrize("limit", sorted(LIMITS))
@pytest.mark.parametrize("value", ["absent", "nan", "text"])
def test_a_missing_limit_never_passes(tmp_path: Path, limit: str, value: str) -> None:
    copy = tomllib.loads(tomli_w.dumps(POLICY))
    without(copy["limits"], limit, value)
    (tmp_path / "site.toml").write_text(tomli_w.dumps(copy))
    with pytest.raises(PolicyError, match=limit):
        load_policy(tmp_path / "site.toml")


def without(table: dict[str, Any], key: str, value: str) -> None:
    if value == "absent":
        del table[key]
    else:
        table[key] = float("nan") if value == "nan" else "many"
