"""Flower's register follows the roster: approved, renewed, expired, revoked, and after a lost database."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, uses_nist_ec_curve

from common.keys import make_private_key, public_text
from server.register import keep_register
from server.roster import Member, Roster, change_roster, load_roster


class Register:
    """The SuperLink's nodes, as its control API shows and changes them."""

    def __init__(self) -> None:
        self.nodes: dict[int, SimpleNamespace] = {}
        self.calls: list[str] = []

    def ListNodes(self, _: Any) -> Any:  # noqa: N802  (Flower's names)
        return SimpleNamespace(nodes_info=list(self.nodes.values()))

    def RegisterNode(self, request: Any) -> Any:  # noqa: N802
        self.calls.append("register")
        assert uses_nist_ec_curve(bytes_to_public_key(request.public_key))
        if any(node.public_key == request.public_key for node in self.nodes.values()):
            raise AssertionError("Flower takes a key once")
        number = 2**63 + len(self.nodes)  # Flower's ids are 64 bits, unsigned
        self.nodes[number] = SimpleNamespace(
            node_id=number, public_key=request.public_key, status="registered", name=request.name
        )
        return self.nodes[number]

    def UnregisterNode(self, request: Any) -> None:  # noqa: N802
        self.calls.append("unregister")
        self.nodes[request.node_id].status = "unregistered"

    def admitted(self) -> set[str]:
        return {n.name for n in self.nodes.values() if n.status != "unregistered"}


def member(name: str, days: int = 100) -> Member:
    now = datetime.now(UTC).replace(microsecond=0)
    return Member(
        hospital=name,
        public_key=public_text(make_private_key().public_key()),
        nominal_patients=10,
        approved=now - timedelta(days=1),
        expires=now + timedelta(days=days),
    )


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    path = tmp_path / "roster.toml"
    path.write_text(Roster(members=(member("north"), member("east"))).to_toml())
    return path


def node_ids(roster: Path) -> dict[str, int | None]:
    return {m.hospital: m.node_id for m in load_roster(roster).members}


def test_who_is_approved_is_registered_and_their_node_ids_are_kept(roster: Path) -> None:
    register = Register()
    keep_register(register, roster)  # type: ignore[arg-type]
    assert register.admitted() == {"north", "east"}
    assert set(node_ids(roster).values()) == set(register.nodes)
    before = roster.read_bytes()
    keep_register(register, roster)  # type: ignore[arg-type]
    assert register.calls == ["register", "register"]
    assert roster.read_bytes() == before  # nothing to do, nothing written


def test_who_is_revoked_is_removed_and_the_others_are_left(roster: Path) -> None:
    register = Register()
    keep_register(register, roster)  # type: ignore[arg-type]
    north = node_ids(roster)["north"]
    change_roster(roster, lambda r: r.without("east", datetime.now(UTC)))
    keep_register(register, roster)  # type: ignore[arg-type]
    assert register.admitted() == {"north"}
    assert node_ids(roster) == {"north": north}


def test_who_has_expired_is_removed(roster: Path) -> None:
    register = Register()
    keep_register(register, roster)  # type: ignore[arg-type]
    east = load_roster(roster).member("east")
    late = east.model_copy(update={"expires": datetime.now(UTC) - timedelta(seconds=1)})
    change_roster(roster, lambda r: r.with_member(late))
    keep_register(register, roster)  # type: ignore[arg-type]
    assert register.admitted() == {"north"}


def test_who_comes_back_with_a_new_key_is_another_node(roster: Path) -> None:
    register = Register()
    keep_register(register, roster)  # type: ignore[arg-type]
    before = node_ids(roster)
    change_roster(
        roster, lambda r: r.without("east", datetime.now(UTC)).with_member(member("east"))
    )
    keep_register(register, roster)  # type: ignore[arg-type]
    after = node_ids(roster)
    assert after["north"] == before["north"]
    assert after["east"] not in (None, before["east"])
    assert register.admitted() == {"north", "east"}


def test_a_node_that_nobody_approved_is_removed(roster: Path) -> None:
    register = Register()
    register.nodes[7] = SimpleNamespace(
        node_id=7, public_key=b"stranger", status="online", name="stranger"
    )
    keep_register(register, roster)  # type: ignore[arg-type]
    assert register.admitted() == {"north", "east"}


def test_a_superlink_that_lost_its_database_gets_all_of_them_again(roster: Path) -> None:
    keep_register(Register(), roster)  # type: ignore[arg-type]
    register = Register()
    register.nodes[1] = SimpleNamespace(
        node_id=1, public_key=b"old", status="unregistered", name="old"
    )
    keep_register(register, roster)  # type: ignore[arg-type]
    assert register.admitted() == {"north", "east"}
    assert set(node_ids(roster).values()) <= set(register.nodes)
