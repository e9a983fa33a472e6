"""Sections of the hospital's report as ready HTML: a study, the budget, what left, what is next."""

import math
from collections import Counter
from collections.abc import Iterator
from html import escape

from client.evaluation import rounds_in_words
from client.hospital_report.gathering import OwnReport, OwnRound, OwnStudy
from client.pack.egress import KINDS
from client.pack.markdown import utc
from client.plain_words import TRAINED
from client.privacy.accounting import Epsilon
from client.statement import ACCOUNTS, StudyFacts
from client.statement_text import releases, rounded_up
from common.clinical.calibration_page import FEW_PATIENTS
from common.clinical.page import RESEARCH
from common.drawing import BLUE, INK
from common.page_parts import absent, count, table
from common.tasks import task_of
from common.tasks.nodule_classification.study import NoduleStudy

NOT_NOISED = (
    "the update and the histogram of a study without differential privacy",
    "neither was noised: both are as your patients make them",
)
NEARLY_SPENT = 0.1  # of the cap; below, the next study is in question


def study(own: OwnStudy, hospital: str) -> str:
    """One study: what it is, this hospital's part in each round, and how its model does here."""
    facts = own.facts
    name = f"Study “{escape(facts.name)}”"
    return (
        f"<section><h2>{name}</h2>{table([], list(_about(own, hospital)), 'words')}"
        f"<h3>This hospital's part in each round</h3>{_rounds(own)}"
        f"<h3>The model on your own patients</h3>{_evaluation(own)}</section>"
    )


def _about(own: OwnStudy, hospital: str) -> Iterator[tuple[str, str]]:
    facts, protocol = own.facts, own.protocol
    yield "protocol digest", f"<code>{facts.digest}</code>"
    if protocol is None:
        yield "text", absent("not kept here, or changed since: intramural-client approve keeps it")
    else:
        task = task_of(protocol)
        others = [name for name in protocol.hospital_names if name != hospital]
        yield "question", escape(task.purpose(protocol))
        if facts.judged:
            yield "taken for the truth", escape(task.words(protocol).outcome)
        yield (
            "model",
            f"{escape(protocol.model.name)}, of which {TRAINED[protocol.model.trainable]} is trained; "
            f"the coordinator has it, with its model card",
        )
        yield "together with", ", ".join(map(escape, others)) or "nobody else"
    planned = ", then ".join(rounds_in_words(int(n)) for n in facts.terms["rounds"])
    yield (
        "here",
        f"{facts.answered} of {facts.reserved} requests answered, {planned}"
        f"{' and the final evaluation' * facts.judged} planned; first {utc(facts.began)}, last "
        f"{utc(facts.ended)} UTC",
    )
    spent = "; ".join(
        f"{account} patients: {escape(_spent(of.epsilon, facts))}"
        for account, of in facts.accounts.items()
    )
    yield "spent in this study", spent


def _spent(spent: Epsilon, facts: StudyFacts) -> str:
    """ "epsilon 3.214 at delta 1e-05", void where the noise can be subtracted."""
    if math.isinf(spent.value):
        return "without a bound: something was released without noise"
    return f"epsilon {rounded_up(spent.value)} at delta {spent.delta:g}" + " (void)" * facts.seeded


def _rounds(own: OwnStudy) -> str:
    rows = [
        (
            str(one.paid.round),
            " and ".join(_done(one)),
            utc(one.paid.time),
            utc(one.sealed) if one.sealed is not None else absent("not answered"),
            *_left(one),
        )
        for one in own.rounds
    ]
    head = ("Round", "Done here", "Reserved (UTC)", "Answered (UTC)", "Left (UTC)", "Bytes")
    return table(head, rows, "rounds") + (
        '<p class="caption">From this hospital\'s ledger and egress log. Reserved before any patient is '
        "looked at; what is reserved and not answered counts as spent, and nothing of it left. Whether "
        "the coordinator used an answer is in its rounds.jsonl: intramural-client pack --rounds compares."
        "</p>"
    )


def _done(one: OwnRound) -> Iterator[str]:
    if "validation" in one.paid.spends:
        yield "received model judged"
    if "training" in one.paid.spends:
        yield "trained"


def _left(one: OwnRound) -> tuple[str, str]:
    """When an answer left first, and its size."""
    if not one.left:
        return absent("not known to have left"), "–"
    first = one.left[0]
    again = f", {len(one.left)} times" if len(one.left) > 1 else ""
    return f"{utc(first.time)}{again}", f"{first.body['bytes']:,}"


def _evaluation(own: OwnStudy) -> str:
    look = own.look
    if look is None:
        return f"<p>{absent(own.no_look)}</p>"
    found, after = look.found, rounds_in_words(look.after_round)
    parts = "".join(f"<h4>{title}</h4>{text}" for title, text in found.sections)
    return (
        f"<p>The newest model that was judged here, after {after}, on "
        f"{count(found.patients, 'validation patient')}, exact.</p><p>{found.headline}</p>{parts}"
    )


def budget(report: OwnReport) -> str:
    """What each account has spent in its life, of the cap in the site policy."""
    if not report.statement.for_life:
        return f"<p>{absent('Nothing is spent: the ledger holds no reservation.')}</p>"
    cap, rows = report.policy.max_epsilon, []
    for account in ACCOUNTS:
        spent = report.statement.for_life[account]
        void = " (void)" * report.statement.seeded
        rows.append(
            (
                f"{account} patients",
                f"{rounded_up(spent.value)}{void}",
                f"{spent.delta:g}",
                f"{cap:g}",
                left_words(left_of(report, account)),
                _bar(min(1.0, spent.value / cap), account),
            )
        )
    head = ("Account", "Epsilon spent", "at delta", "Cap for life", "Left", "Spent of the cap")
    return table(head, rows, "numbers") + (
        '<p class="caption">All studies of this ledger together, composed and not added up. What is '
        "spent never comes back; beyond the cap (max-epsilon in site.toml) the vault refuses.</p>"
    )


def left_of(report: OwnReport, account: str) -> float:
    """Epsilon that is left of the cap; 0 where nothing bounds what was spent."""
    spent = {str(a): e.value for a, e in report.statement.for_life.items()}
    return max(0.0, report.policy.max_epsilon - spent.get(account, 0.0))


def left_words(left: float) -> str:
    """Three decimals, never more than there is."""
    return f"{math.floor(1000 * left) / 1000:.3f}"


def _bar(share: float, account: str) -> str:
    return (
        f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{100 * share:.0f} % of the {account} cap"><rect width="{100 * share:.2f}" '
        f'height="10" fill="{BLUE}"/><rect x=".5" y=".5" width="99" height="9" fill="none" '
        f'stroke="{INK}" vector-effect="non-scaling-stroke"/></svg>'
    )


def egress(report: OwnReport) -> str:
    """What left, by kind and refusal code, and what of it no epsilon covers."""
    left = report.left
    if left is None:
        return f"<p>{absent('Not known: the egress log cannot be read.')}</p>"
    counted: Counter[tuple[str, str]] = Counter()
    size: Counter[tuple[str, str]] = Counter()
    span: dict[tuple[str, str], tuple[str, str]] = {}
    for row in left["left"]:
        kind = (row["kind"], row["code"] or "")
        counted[kind] += row["messages"]
        size[kind] += row["bytes"]
        first, last = span.get(kind, (row["first"], row["last"]))
        span[kind] = min(first, row["first"]), max(last, row["last"])
    noised = all(own.facts.private for own in report.studies)
    rows = [
        (
            escape(" ".join(filter(None, kind))),
            f"{number:,}",
            f"{size[kind]:,}",
            f'<span class="time">{utc(span[kind][0])} to</span> {utc(span[kind][1])}',
            escape(KINDS.get(kind[0], "-") if noised else _holds(kind[0])),
        )
        for kind, number in counted.items()
    ]
    others = left["messages_of_other_studies"]
    judged = not report.studies or any(own.facts.judged for own in report.studies)
    leaves = releases(judged=judged)
    uncovered = [(escape(what), escape(why)) for what, covered, why in leaves if "NOT" in covered]
    if not noised:
        uncovered.insert(0, NOT_NOISED)
    head = ("What", "Messages", "Bytes", "From, to (UTC)", "It can hold")
    return (
        f"<p>{left['messages']:,} messages of {left['bytes']:,} bytes left this hospital"
        + (f", {others:,} of them to studies that are not in this report" if others else "")
        + ". Each was written into the egress log before it left.</p>"
        + (table(head, rows, "left") if rows else "")
        + table(("Leaves, and no epsilon covers it", "Because"), uncovered, "words")
        + "<p>Everything else about your patients stayed. privacy-statement.md has the whole account, to be "
        "signed.</p>"
    )


def _holds(kind: str) -> str:
    """What a message of `kind` can hold where some study has no noise."""
    return KINDS.get(kind, "-").replace("the noised", "the")


def limits(report: OwnReport) -> str:
    """What the figures of this page do not say."""
    judged = [own.look.found for own in report.studies if own.look is not None]
    said = [
        RESEARCH,
        *(limit for found in judged for limit in found.limits),
        "What other hospitals did, spent and found is not known here.",
        "The books say what this software did. Whoever has root on this machine can change both.",
    ]
    return f"<ul>{''.join(f'<li>{sentence}</li>' for sentence in dict.fromkeys(said))}</ul>"


def following(report: OwnReport) -> Iterator[str]:
    """What somebody at the hospital should do now, in order of urgency."""
    if report.problem is not None:
        yield "Find out why the books do not agree, before anything else leaves: intramural-client verify."
    if not report.studies:
        yield "Look at your data, then at a study: intramural-client check, intramural-client approve."
        return
    for own in report.studies:
        if unanswered := own.facts.reserved - own.facts.answered:
            yield (
                f"Look into the vault's log: requests of {own.facts.name} that are reserved and not "
                f"answered: {unanswered}. A crash, unless it is at work now; each counts as spent."
            )
    for account in ACCOUNTS:
        left = left_of(report, account)
        if left < NEARLY_SPENT * report.policy.max_epsilon:
            yield (
                f"The budget of the {account} patients is nearly used up ({left_words(left)} left): a "
                f"further study needs other patients, or a policy that was reviewed."
            )
    for own in report.studies:
        if own.look is not None and own.look.found.patients < FEW_PATIENTS:
            yield (
                f"Take the evaluation of {own.facts.name} for a hint only: {own.look.found.patients} "
                f"patients are too few to say much."
            )
    yield "Have privacy-statement.md signed; make the reviewer pack for whoever asks: intramural-client pack."
    if any(own.protocol is None or isinstance(own.protocol, NoduleStudy) for own in report.studies):
        yield (
            "To try the model on images of your own, ask the coordinator for model.safetensors and "
            "model-card.json: intramural-client predict. For research; treat nobody by it."
        )
    yield "Back up the state folder: with ledger or egress log lost, no further study can run."
