"""The live page as one HTML document: no script, nothing fetched, read in a dark room and on paper.

The browser asks again by itself. Every word from outside is escaped here.
"""

from datetime import UTC, datetime
from html import escape

from common.page_parts import absent, count, figure, table
from common.tasks import task_of
from server.flags import WORDS
from server.live.attention import attention
from server.live.figures import Judged
from server.live.hospitals import hospitals
from server.live.look import Look
from server.live.rounds import matrix
from server.live.style import STYLE
from server.live.words import STATES, epsilon_in_words, in_rounds, moment, span
from server.page import heading, small

AGAIN_SECONDS = 5  # until the browser asks again: an answer takes milliseconds
STILL = "/still"


def document(
    look: Look,
    judged: Judged | None,
    now: float,
    *,
    still: bool = False,
    old_since: float | None = None,
) -> str:
    """The page as of `now` (seconds since the epoch).

    With `still` the browser does not ask again. `old_since` says since when the files cannot be read:
    then `look` is the last one that could.
    """
    sections = {
        "Hospitals": hospitals(look, judged, now),
        "Rounds": f'<div class="wide">{matrix(look)}</div>',
        **({} if figure_of(look) is None else {"Learning curve": _curve(look, judged)}),
        "Warnings about updates": _warnings(look),
    }
    if look.run is None:
        sections = {"Hospitals": sections["Hospitals"]}
    if not look.rehearsal:
        sections["Machine"] = _machine(look, now)
    if look.others:
        sections["Other runs of this coordinator"] = _others(look)
    body = "".join(f"<section><h2>{title}</h2>{text}</section>" for title, text in sections.items())
    return _page(
        title=f"{_short(look)} · {escape(look.protocol.study)}",
        head=f'<p class="kind">{_kind(look)}</p><h1>{escape(look.protocol.study)}</h1>'
        f'<p class="lead">{_lead(look, now)}</p>',
        body=f"{_old(old_since, now)}{_attention(look, judged)}{_tiles(look, judged)}{body}",
        now=now,
        still=still,
    )


def unreadable(now: float, *, still: bool = False) -> str:
    """The page when the files could not be read even once."""
    return _page(
        title="not readable",
        head="<h1>How things stand cannot be read now</h1>",
        body='<div class="warning"><p>A file of the coordinator is absent, damaged or of another '
        "version. <code>intramural-server status</code> names it.</p></div>",
        now=now,
        still=still,
    )


def _page(title: str, head: str, body: str, now: float, still: bool) -> str:
    again = "" if still else f'<meta http-equiv="refresh" content="{AGAIN_SECONDS}">'
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'{again}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}</style></head><body>'
        f"<header>{head}</header><main>{body}</main><footer>{_foot(now, still)}</footer></body></html>\n"
    )


def _foot(now: float, still: bool) -> str:
    again = (
        'Held still. <a href="/">Let it run</a>.'
        if still
        else f'Asks again every {AGAIN_SECONDS} s. <a href="{STILL}">Hold it still</a>.'
    )
    at = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return (
        f'As of {at}. <span class="screen">{again}</span> This page reads and changes nothing. '
        "Research use, not a medical device."
    )


def _kind(look: Look) -> str:
    return "Live page of a rehearsal" if look.rehearsal else "Live page of the coordinator"


def _short(look: Look) -> str:
    """For the browser's tab."""
    if look.run is None:
        return "no run"
    state = look.run["state"]
    done = f"{look.run['rounds_closed']}/{look.run['rounds']}"
    return done if look.under_way else f"{done} {escape(state)}"


def _lead(look: Look, now: float) -> str:
    run = look.run
    if run is None:
        names = look.protocol.hospital_names
        approved = sum(name in look.found["hospitals"] for name in names)
        return f"No run has begun. {approved} of {count(len(names), 'hospital')} approved."
    name = f"Run {escape(run['name'])}"
    if not look.under_way:
        return f"{name} {STATES[run['state']]}."
    where = f"{name} is under way. "
    if look.rehearsal:
        return where + "Its hospitals are simulated on one machine."
    if run["round"] == 0:
        return where + "No hospital has been asked yet."
    if run["round"] <= run["rounds_closed"]:
        return where + f"Round {run['round']} is closed, the next one is about to begin."
    final = run["round"] > run["rounds"]
    what = "The final evaluation" if final else f"Round {run['round']} of {run['rounds']}"
    closes = run["round_started"] + run["deadline_seconds"]
    return (
        f"{where}{what} has been open for {span(now - run['round_started'])} and closes at "
        f"{moment(closes, now)} at the latest, in {span(closes - now)}."
    )


def _old(since: float | None, now: float) -> str:
    if since is None:
        return ""
    return (
        f'<p class="old"><strong>Old figures.</strong> Since {moment(since, now)} a file of the '
        "coordinator cannot be read. Below is what was read before; "
        "<code>intramural-server status</code> says what is wrong.</p>"
    )


def _attention(look: Look, judged: Judged | None) -> str:
    found = attention(look, judged)
    if not found:
        return '<p class="well">✓ Nothing needs attention.</p>'
    items = "".join(f"<li>{sentence}</li>" for sentence in found)
    return f'<div class="warning"><strong>Needs attention</strong><ul>{items}</ul></div>'


def _tiles(look: Look, judged: Judged | None) -> str:
    run = look.run
    if run is None:
        return ""
    tiles = [("Rounds closed", f"{run['rounds_closed']} of {run['rounds']}", _pace(look))]
    if look.under_way and run["round"] > run["rounds_closed"] and not look.rehearsal:
        states = [about.get("state") for about in look.found["hospitals"].values()]
        answered, asked = states.count("answered"), len(look.protocol.hospital_names)
        needed = f"{look.protocol.participation.quorum} needed to close it"
        if run["round"] > run["rounds"]:
            needed = "the final evaluation ends with any number"
        tiles.append(("Answers in the open round", f"{answered} of {asked}", needed))
    if (name := figure_of(look)) is not None:
        tiles.append((f"{heading(name)}, released", *_released(judged)))
    tiles.append(("Largest ε, of the promised", *_largest(look, judged)))
    cells = "".join(
        f'<div class="tile"><div class="label">{label}</div><div class="value">{value}</div>'
        f'<div class="note">{note}</div></div>'
        for label, value, note in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def figure_of(look: Look) -> str | None:
    """What the discrimination is called; None where nothing is judged."""
    judge = task_of(look.protocol).judge
    return None if judge is None else judge.figure


def _pace(look: Look) -> str:
    if not look.records:
        return "none yet"
    usual = sum(record.seconds for record in look.records) / len(look.records)
    left = look.protocol.rounds - len(look.records)
    more = f", about {span(left * usual)} left" if look.under_way and left else ""
    return f"{span(usual)} each on average{more}"


def _released(judged: Judged | None) -> tuple[str, str]:
    """Value and note of the tile."""
    if judged is None:
        return absent("not yet known"), ""
    if judged.discrimination is None:
        return absent("not known"), "nothing released, or too few patients to say"
    value, low, high = judged.discrimination
    return f"{value:.3f}", f"95 % {low:.3f}–{high:.3f}, after {count(judged.after or 0, 'round')}"


def _largest(look: Look, judged: Judged | None) -> tuple[str, str]:
    """Value and note of the tile."""
    privacy = look.protocol.privacy
    if privacy.mechanism == "none":
        return absent("none"), "no differential privacy"
    at = f"at δ = {small(privacy.delta)}"
    known = [value for value in judged.epsilon.values() if value is not None] if judged else []
    if not known:
        return absent("not yet known"), f"promised: {privacy.epsilon:g} {at}"
    after = 0 if judged is None else judged.rounds
    return (
        f"{epsilon_in_words(max(known))} of {privacy.epsilon:g}",
        f"{at}, after {count(after, 'round')}",
    )


def _curve(look: Look, judged: Judged | None) -> str:
    if judged is None:
        return f"<p>{absent('Being worked out.')}</p>"
    if judged.curve is None:
        return f"<p>{absent('Nothing to draw yet: nothing was released, or too few patients to say.')}</p>"
    name = heading(figure_of(look) or "")
    return figure(
        judged.curve,
        f"{name} after each server round",
        f"{name} on the validation patients of all hospitals, read from the released histograms; "
        "bars are 95 % intervals over noise and choice of patients. 0.5 is chance.",
    )


def _warnings(look: Look) -> str:
    items = "".join(
        f"<li><strong>{escape(name)}</strong>, {in_rounds(rounds)}: {WORDS[code]} "
        f"(<code>{escape(code)}</code>)</li>"
        for name, about in look.found["hospitals"].items()
        for code, rounds in about.get("flags", {}).items()
    )
    if not items:
        return "<p>No update stood out. That is no proof that all are well.</p>"
    return (
        f'<ul>{items}</ul><p class="caption">A warning is a reason to ask the hospital, not a proof; '
        "its updates were used all the same.</p>"
    )


def _machine(look: Look, now: float) -> str:
    free, total = look.disk
    days = look.found["certificate_days_left"]
    left = [
        ["Coordinator", escape(look.found["coordinator"])],
        ["Certificate of the public port", f"{count(days['server'], 'day')} left"],
        ["Study’s authority", f"{count(days['ca'], 'day')} left"],
        ["Disk", f"{free / 1e9:,.1f} GB free of {total / 1e9:,.0f} GB"],
    ]
    services = [
        [escape(name), f"for {span(now - about['since'])}", str(about["restarts"])]
        for name, about in look.found["services"].items()
    ]
    running = table(["Process", "At work", "Restarts"], services, "numbers") if services else ""
    return f'<div class="two">{table([], left, "words")}{running}</div>'


def _others(look: Look) -> str:
    rows = [
        [
            escape(other.name),
            absent("not readable") if other.state is None else escape(other.state),
            f"{other.closed} of {other.rounds}" if other.state is not None else "",
        ]
        for other in look.others
    ]
    return table(["Run", "State", "Rounds closed"], rows, "words")
