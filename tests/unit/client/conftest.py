"""A hospital that has answered rounds of studies, without any training: policy, ledger and terms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.approval import begin
from client.egress_log import EgressLog
from client.ledger import Account, Ledger, Spend
from client.policy import SitePolicy
from client.terms import terms_of
from common.protocol import StudyProtocol
from tests.hospital import LIMITS, approved

MakeStudy = Callable[..., StudyProtocol]

SPENDS: dict[Account, Spend] = {"training": Spend(1.5, 0.25, 8), "validation": Spend(5.0, 1.0, 1)}


class Office:
    """One hospital's ledger and `site.toml`, as its security officer finds them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.site = folder, folder / "state", folder / "site.toml"
        self.state.mkdir()
        begin(self.state)
        self.write_policy()
        self._asked = 0

    def write_policy(self, **changes: Any) -> SitePolicy:
        fields: dict[str, Any] = {
            "hospital": "north",
            "data": self.folder / "data",
            "state": self.state,
            "approved_studies": (),
            "max_epsilon": 30.0,
            "limits": LIMITS,
        }
        policy = SitePolicy.model_validate(fields | changes)
        self.site.write_text(policy.to_toml())
        return approved(policy)

    def answer(
        self,
        study: StudyProtocol,
        rounds: int = 1,
        *,
        sealed: bool = True,
        spends: dict[Account, Spend] = SPENDS,
        **policy: Any,
    ) -> None:
        """Reserve (and seal) `rounds` rounds of `study`."""
        self.policy = self.write_policy(**policy)
        terms = terms_of(study, self.policy)
        for server_round in range(1, rounds + 1):
            self._asked += 1
            request = f"{self._asked:064x}"
            log = EgressLog(self.state)
            log.approval_of(self.policy.digest)
            with Ledger.open(self.state) as ledger:
                reserved = ledger.reserve(request, study.digest, server_round, spends, terms)
                if sealed:
                    reply = f"reply {self._asked}".encode()
                    ledger.seal(request, reply, log.head)
                    log.write(reply, "train-reply", None, reserved.head)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture
def without_noise() -> dict[Account, Spend]:
    return {"training": Spend(0.0, 0.25, 8), "validation": Spend(0.0, 1.0, 1)}
