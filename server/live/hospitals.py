"""The live page's table of hospitals."""

from collections.abc import Mapping
from html import escape

from common.page_parts import absent, count, table
from server.live.figures import Judged
from server.live.look import Look
from server.live.rounds import NOW
from server.live.words import above, code_in_words, epsilon_in_words, span
from server.page import small


def hospitals(look: Look, judged: Judged | None, now: float) -> str:
    """A row for each: its size, what it does now, what it has answered and spent, its certificate."""
    head = ["Hospital", "Patients (nominal)"]
    head += ['<span class="now">Now</span>'] * _live(look)
    head += ["Rounds answered", "ε stated, of the promised"] * (look.run is not None)
    head += ["Certificate, days left"] * (not look.rehearsal)
    spent = {} if judged is None else judged.epsilon
    rows = [_row(name, look, spent, now) for name in look.found["hospitals"]]
    if not rows:
        return "<p>No hospital has been approved yet.</p>"
    return table(head, rows, "numbers") + _caption(look, judged)


def _row(name: str, look: Look, spent: Mapping[str, float | None], now: float) -> list[str]:
    about = look.found["hospitals"][name]
    row = [escape(name), f"{about['nominal_patients']:,}"]
    in_study = name in look.protocol.hospital_names
    if _live(look):
        row.append(_now(about, now) if in_study else absent("not in this study"))
    if look.run is not None:
        row.append(f"{about['rounds_in']} of {len(look.records)}" if in_study else "")
        row.append(_epsilon(look, spent.get(name)) if in_study else "")
    if not look.rehearsal:
        row.append(_days(about["days_left"]))
    return row


def _days(left: int | None) -> str:
    if left is None:
        return absent("not on the roster")
    return str(left) if left >= 0 else absent("expired")


def _live(look: Look) -> bool:
    """Whether it is known what hospitals do just now."""
    return look.under_way and not look.rehearsal


def _caption(look: Look, judged: Judged | None) -> str:
    if look.run is None or look.protocol.privacy.mechanism == "none":
        return ""
    after = f" after {count(judged.rounds, 'round')}" if judged is not None else ""
    return (
        f'<p class="caption">ε at δ = {small(look.protocol.privacy.delta)} of the training patients'
        f"{after}, rounded up, from the noise that each hospital states. Its own ledger is the truth.</p>"
    )


def _now(about: dict[str, object], now: float) -> str:
    """What a hospital does in the open round, and whether it is connected."""
    mark, code = NOW[str(about["state"])], about.get("code")
    since = about.get("since")
    if not isinstance(since, int | float):
        return '<span class="now"><span class="away">–</span> not seen in this run</span>'
    here = "connected for" if about["connected"] else "gone for"
    state = str(about["state"])
    words = state if state != "asked" or about["connected"] else "asked, then lost"
    why = f"{code_in_words(str(code))} ({escape(str(code))}); " if code else ""
    return (
        f'<span class="now"><span class="{mark.style}">{mark.sign}</span> {words}'
        f"<small>{why}{here} {span(now - since)}</small></span>"
    )


def _epsilon(look: Look, value: float | None) -> str:
    """The figure, and a bar of how much of the promise it is."""
    if look.protocol.privacy.mechanism == "none":
        return absent("no privacy")
    if value is None:
        return absent("not yet known")
    promised = look.protocol.privacy.epsilon
    share = min(1.0, value / promised)
    over = "over" if above(value, promised) else "part"
    return (
        f"{epsilon_in_words(value)} of {promised:g}"
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="100" height="6"/><rect class="{over}" width="{100 * share:.1f}" height="6"/></svg>'
    )
