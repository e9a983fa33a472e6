"""What somebody at the coordinator should look at now, worst first, each as a sentence."""

from collections.abc import Iterator
from html import escape

from common.page_parts import count
from server.live.figures import Judged
from server.live.look import Look
from server.live.words import (
    STATES,
    above,
    code_in_words,
    epsilon_in_words,
    failure_in_words,
    in_rounds,
)
from server.page import listed

FEW_DAYS = 30  # of a certificate: time enough for a telephone call and a holiday
LITTLE_DISK = 2 << 30  # bytes: a checkpoint of a large model several times over
MANY_RESTARTS = 3
_UNHAPPY = ("quorum-missed", "mandatory-missing", "failed")


def attention(look: Look, judged: Judged | None) -> list[str]:
    """Ready HTML; empty when all is well."""
    return [*_run(look), *_hospitals(look), *_spent(look, judged), *_flagged(look), *_machine(look)]


def _run(look: Look) -> Iterator[str]:
    run = look.run
    if run is not None and run["state"] in _UNHAPPY:
        why = f": {failure_in_words(run['detail'])}" if run["state"] == "failed" else ""
        yield f"The run {STATES[run['state']]}{why}. <code>intramural-server run</code> goes on with it."
    if look.found["coordinator"] == "not running":
        yield (
            "No coordinator is at work, so no hospital can connect: <code>intramural-server start</code>."
        )
    if look.under_way and not look.rehearsal:
        yield from _too_few(look)
        for name, about in look.found["hospitals"].items():
            if about.get("state") == "refused":
                code = about["code"]
                yield (
                    f"No answer of {listed([name])} in the open round that can be used: "
                    f"{code_in_words(code)} (<code>{escape(code)}</code>)."
                )


def _too_few(look: Look) -> Iterator[str]:
    hospitals, participation = look.found["hospitals"], look.protocol.participation
    away = [n for n in look.protocol.hospital_names if not hospitals[n]["connected"]]
    here = len(look.protocol.hospital_names) - len(away)
    if look.run is not None and look.run["round"] > look.run["rounds"]:
        if away:
            yield f"Not connected, and the final evaluation ends without: {listed(away)}."
    elif here < participation.quorum:
        yield (
            f"{count(here, 'hospital')} of {len(look.protocol.hospital_names)} connected, and a round "
            f"needs {count(participation.quorum, 'answer')}. Not connected: {listed(away)}."
        )
    elif needed := [name for name in participation.mandatory if name in away]:
        yield f"Not connected, and no round closes without: {listed(needed)}."


def _hospitals(look: Look) -> Iterator[str]:
    if look.rehearsal:
        return
    days = {name: look.found["hospitals"][name]["days_left"] for name in look.found["hospitals"]}
    if look.under_way and (out := [name for name, left in days.items() if left is None]):
        yield f"Not on the roster, so it cannot connect: {listed(out)}."
    for name, left in days.items():
        if left is not None and left < FEW_DAYS:
            yield (
                f"The certificate of {listed([name])} {_expires(left)}: "
                f"<code>intramural-server provision renew {listed([name])}</code>."
            )


def _spent(look: Look, judged: Judged | None) -> Iterator[str]:
    promised = look.protocol.privacy.epsilon
    for name, stated in judged.epsilon.items() if judged is not None else ():
        if stated is not None and above(stated, promised):
            yield (
                f"The noise that {listed([name])} states makes ε {epsilon_in_words(stated)}, and the "
                f"protocol promises {promised:g}. Call the hospital."
            )


def _flagged(look: Look) -> Iterator[str]:
    for name, about in look.found["hospitals"].items():
        if rounds := sorted({r for when in about.get("flags", {}).values() for r in when}):
            yield f"Updates of {listed([name])} stood out in {in_rounds(rounds)}: see below."


def _machine(look: Look) -> Iterator[str]:
    for name, left in look.found.get("certificate_days_left", {}).items():
        if left < FEW_DAYS:
            whose = "study’s authority" if name == "ca" else "coordinator’s own certificate"
            yield f"The {whose} {_expires(left)}."
    free, _ = look.disk
    if free < LITTLE_DISK:
        yield f"{free / 1e9:.1f} GB of disk left where the run is written."
    for name, about in look.found.get("services", {}).items():
        if about["restarts"] >= MANY_RESTARTS:
            yield (
                f"The {name} was started again {about['restarts']} times; its log in the "
                "coordinator’s home says why."
            )


def _expires(days: int) -> str:
    return f"expires in {count(days, 'day')}" if days >= 0 else "has expired"
