"""The process of the vault: no network, the patients, and one socket, until SIGTERM.

`python -m client.vault_process SITE [--user USER]` is how client/node.py starts it. As root it leaves
the network and becomes USER; that user alone could not do the first and still recognise its relay.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from threading import Event, Timer
from types import FrameType

from client import walls
from client.egress_log import EgressLog
from client.ledger import Ledger
from client.policy import SitePolicy, load_policy, permit_of
from client.redaction import install, withhold_prints
from common import outbound
from common.errors import EXIT_REFUSED, HospitalError, IntramuralError
from common.files import locked
from common.protocol import load_protocol
from common.supervisor import end_with_parent

# What starts threads is loaded where it is used: a process leaves the network before it has any.

log = logging.getLogger("intramural.vault")

LOCK = "vault-process.lock"
PROTOCOL = "protocol.toml"  # beside site.toml, as the coordinator's package has it
GRACE_SECONDS = 5.0  # from SIGTERM to the end of a vault that is at work; its ledger outlives that


def main(site: Path) -> None:
    """Serve the relay under the policy in `site` until SIGTERM or SIGINT.

    A host that does not let the process leave its network is warned about and served all the same
    (`intramural-client check` shows it). HospitalError without a socket in the policy or with an
    unknown relay-user; UnapprovedPolicyError when the policy is not, byte for byte, the one that the
    hospital approved, EgressError without an egress log; RunError when a vault works on this state
    already; PolicyError; ChannelError.
    """
    policy = load_policy(site)
    if policy.socket is None:
        raise HospitalError(
            f"expected the path of the vault's socket as 'socket' in {site} and found none; set it"
        )
    has_network = walls.has_network()
    relay = None if policy.relay_user is None else walls.uid_of(policy.relay_user)
    if has_network:
        _leave_network(relay)
    EgressLog(policy.state).approval_of(policy.digest)
    with locked(policy.state / LOCK):
        from client import channel
        from client.vault import Vault

        vault = Vault(policy)
        _warm_up(policy, site.parent / PROTOCOL)
        stop = Event()
        _stop_when_told(stop)
        log.info("the vault of '%s' listens at %s", policy.hospital, policy.socket)
        allowed = set() if relay is None else {relay}
        channel.serve(policy.socket, vault.handle, allowed_uids=allowed, stop=stop)


def run() -> None:
    """Entry point of `python -m client.vault_process`; exit code 2 when it refuses to start."""
    words = argparse.ArgumentParser(prog="client.vault_process")
    words.add_argument("site", type=Path)
    words.add_argument("--user", help="whom to become, started as root")
    given = words.parse_args()
    outbound.switch_off()
    install(logging.INFO)
    withhold_prints()
    try:
        if given.user is not None:
            _leave_network(None)
            walls.become(given.user)
        end_with_parent()
        main(given.site)
    except IntramuralError as error:
        log.error("%s: %s", error.code, error)
        sys.exit(EXIT_REFUSED)
    os._exit(0)  # all is written; Python would take seconds to unload torch


def _leave_network(relay: int | None) -> None:
    try:
        walls.leave_network(relay)
    except HospitalError as error:
        log.warning("the wall between patients and network does not stand: %s", error)


def _warm_up(policy: SitePolicy, protocol_file: Path) -> None:
    """Load now, and not while a coordinator waits, what a first request does: accountants, GPU, steps.

    With an approved study beside the policy, as a package has it, also its noise, which takes
    seconds to find. Nothing here reads a patient or reserves anything.
    """
    import torch

    from client.privacy.budget import study_noise
    from client.training import Execution

    weight = torch.zeros(1, device=Execution.of(policy).device, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    torch.optim.SGD([weight], lr=1.0).step()
    try:
        protocol = load_protocol(protocol_file)
        if protocol.digest in policy.approved_studies:
            with Ledger.read(policy.state) as ledger:
                study_noise(protocol, ledger, permit_of(policy))
    except IntramuralError as error:
        log.info("nothing to prepare for: %s", error)


def _stop_when_told(stop: Event) -> None:
    """Have SIGTERM and SIGINT set `stop`, and end the process if it is still there a little later."""

    def end() -> None:
        log.warning("ended at work: the request goes on when it is asked again")
        os._exit(0)

    def told(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  (signal's signature)
        stop.set()
        watch = Timer(GRACE_SECONDS, end)
        watch.daemon = True
        watch.start()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)


if __name__ == "__main__":
    run()
