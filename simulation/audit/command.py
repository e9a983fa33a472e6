"""What `intramural-simulate audit` does: every part of the audit, its table and its files."""

import json
import time
from itertools import zip_longest
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import RunError
from common.files import write_atomic
from common.protocol import StudyProtocol, load_protocol
from simulation.audit.canaries import audit_canaries
from simulation.audit.inversion import audit_inversion
from simulation.audit.mechanism import audit_noise, audit_sampling, audit_sensitivity
from simulation.audit.outcome import NO_PROOF, Audit
from simulation.audit.page import audit_page
from simulation.audit.throwaway import Subject
from simulation.prepare import LUNG_NODULES

PAGE, FACTS = "audit.html", "audit.json"


def carry_out(protocol: Path | None, out: Path, console: Console, *, no_dp: bool) -> Audit:
    """Audit the mechanism of `protocol` (the shipped main job's) and write both files into `out`.

    IntramuralError when there is no claim to audit, or no folder to write to.
    """
    study = load_protocol(protocol or LUNG_NODULES)
    torch.set_num_threads(1)  # small convolutions lose more than they gain by a second thread
    audit = audited(study, console, no_dp=no_dp)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / PAGE, audit_page(audit).encode())
        write_atomic(out / FACTS, (json.dumps(audit.as_json(), indent=2) + "\n").encode())
    except OSError as error:
        raise RunError(
            f"expected a folder for the audit's report, found that {out} cannot be written "
            f"({error.strerror}); give another --out"
        ) from error
    print_audit(console, audit)
    console.print(f"report: {out / PAGE}", highlight=False, soft_wrap=True)
    return audit


def audited(protocol: StudyProtocol, console: Console, *, no_dp: bool) -> Audit:
    """Every part of the audit, one after the other."""
    started = time.monotonic()
    subject = Subject.of(protocol, no_dp=no_dp)
    console.print("noise, sensitivity and sampling ...")
    checks = [*audit_noise(subject), *audit_sensitivity(subject), *audit_sampling(subject)]
    console.print("canaries ...")
    canaries, found = audit_canaries(subject)
    checks += found
    console.print("gradient inversion (half a minute) ...")
    inversion, found = audit_inversion(subject)
    checks += found
    return Audit(
        protocol=protocol,
        sigma=subject.sigma,
        dp_off=no_dp,
        checks=tuple(checks),
        canaries=canaries,
        inversion=inversion,
        seconds=time.monotonic() - started,
    )


def print_audit(console: Console, audit: Audit) -> None:
    """The checks as a table, and the verdict in words."""
    privacy = audit.protocol.privacy
    table = Table(
        title=f"audit of {audit.protocol.study}: epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
    )
    for column in ("test", "found", "expected", "verdict"):
        table.add_column(column, overflow="fold")
    for check, following in zip_longest(audit.checks, audit.checks[1:]):
        verdict = "[green]held[/green]" if check.held else "[bold red]FAILED[/bold red]"
        words = (f"{check.part}: {check.name}", check.found, check.expected)
        last = following is None or following.part != check.part
        table.add_row(*(escape(word) for word in words), verdict, end_section=last)
    console.print(table)
    if audit.passed:
        console.print(f"[green]held[/green]: all {len(audit.checks)} checks. {NO_PROOF}")
        return
    off = " with differential privacy switched off" if audit.dp_off else ""
    console.print(
        f"[bold red]AUDIT FAILED[/bold red]{off}: {len(audit.failed)} of {len(audit.checks)} checks. "
        f"What ran does not keep the protocol's promise; train no patient with it."
    )
