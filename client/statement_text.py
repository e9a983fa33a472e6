"""The privacy statement in words and tables that a data-protection officer can read and sign."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from client.privacy.accounting import Epsilon
from client.statement import Statement, StudyFacts, as_json
from common.files import write_atomic
from common.markdown import items, table

MARKDOWN = "privacy-statement.md"
JSON = "privacy-statement.json"

# What leaves a hospital: (release, whether a guarantee covers it, why).
_HISTOGRAM = "the histogram of each evaluation"
_SUPPRESSED = "whether a histogram is suppressed"

RELEASES = (
    (
        "the update of each round (weights)",
        "covered, training account",
        "the sum of the patients' clipped gradients of every step, with Gaussian noise on it",
    ),
    (
        _HISTOGRAM,
        "covered, validation account",
        "a weighted count of patients per class and score bin, or per event, period and risk bin, with "
        "Gaussian noise on it",
    ),
    (
        "the noise multipliers that travel with them",
        "public",
        "from the protocol, the hospital's cap and the earlier entries of its ledger",
    ),
    (
        "length, names and shapes in every message",
        "public",
        "fixed by the protocol, the same for every cohort",
    ),
    (
        "two hashes of the ledger with each reply",
        "public",
        "the ledger holds public constants and times, no figure of a patient",
    ),
    (
        "a hash for the site policy with each reply",
        "public",
        "of the egress log's entry that approved it, which also holds a random name",
    ),
    (
        _SUPPRESSED,
        "NOT covered",
        "one bit: whether both classes, or patients with and without the event, have the policy's smallest "
        "group of validation patients",
    ),
    ("the hello (the hospital's name)", "public", "the name is on the study's roster"),
    (
        "refusal codes, and not answering",
        "NOT covered",
        "a fixed text, but whether there is one can depend on the data (a file that cannot be read)",
    ),
    (
        "when a reply comes, and after how long",
        "NOT covered",
        "training takes the longer the more patients were drawn",
    ),
)

REHEARSAL_RELEASE = (
    "exact figures, curves and comparisons in the report of a rehearsal",
    "NOT covered",
    "the rehearser holds all data and looks at it; in a deployment they do not leave",
)

PUBLIC = (
    "the study protocol with all its settings, and the roster of hospitals;",
    "each hospital's nominal number of patients, agreed before the study (the true number is not);",
    "sampling rate, steps, clipping norm, noise multipliers, and which rounds were answered;",
    "the constants that turn a patient's data into what a model is shown, and the initial model.",
)

NOT_PROTECTED = (
    "A patient at two hospitals, or with two patient numbers at one: each guarantee holds for its "
    "own part, and the epsilons add up.",
    "Time: how long a reply takes depends on how many patients were drawn.",
    "The choice of settings, where somebody chose them by looking at the patients' data.",
    "Anybody with root at the hospital, who can read the patients' data themselves.",
    "Attacks on floating-point arithmetic (Mironov 2012): noise is drawn in double precision and "
    "added in the precision of the weights.",
    "Facts about patients in general. That nodules of a certain look are malignant, or who is at risk, may "
    "be learnt; the promise is about taking part, not about medical knowledge.",
    "A round that a crash interrupted is counted as spent although nothing of it left: the epsilon "
    "stated is then above the true one, never below.",
    "A ledger that was restored together with its whole state folder. The hospital cannot see it; "
    "the coordinator can, because every reply names the reply before it.",
)

_SIGNATURE = (
    "| name | role | date | signature |\n|---|---|---|---|\n"
    "|                    |                    |            |                    |\n"
)


def write_statement(
    folder: Path, statements: Sequence[Statement], *, rehearsal: bool = False
) -> None:
    """Write `privacy-statement.md` and `.json` for all `statements` (one a hospital) into `folder`."""
    everything = [study for statement in statements for study in statement.studies]
    facts = {
        "rehearsal": rehearsal or any(study.rehearsal for study in everything),
        "unit": "patient",
        "neighbours": "add or remove one",
        "releases": [
            {"release": release, "covered": covered, "because": why}
            for release, covered, why in _releases(everything, rehearsal)
        ],
        "public_by_assumption": list(PUBLIC),
        "not_protected": list(NOT_PROTECTED),
        "hospitals": [as_json(statement) for statement in statements],
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / JSON, text.encode())
    write_atomic(folder / MARKDOWN, markdown(statements, rehearsal=rehearsal).encode())


def markdown(statements: Sequence[Statement], *, rehearsal: bool = False) -> str:
    """The statement of all hospitals together, one section a study."""
    by_study: dict[str, list[tuple[Statement, StudyFacts]]] = {}
    for statement in statements:
        for study in statement.studies:
            by_study.setdefault(study.digest, []).append((statement, study))
    everything = [study for rows in by_study.values() for _, study in rows]
    rehearsal = rehearsal or any(study.rehearsal for study in everything)
    parts = ["# Privacy statement\n"]
    if rehearsal:
        parts.append(
            "> **This was a rehearsal.** One person held the data of all hospitals. It shows what a "
            "study would cost; it is no statement about a deployment.\n"
        )
    if any(study.seeded for study in everything):
        parts.append(
            "> **TEST MODE: NOTHING HERE IS PRIVATE.** The noise came from a known seed. Whoever "
            "knows the seed can subtract it, so every epsilon below is void.\n"
        )
    if not all(study.private for study in everything):
        parts.append(
            "> **NO DIFFERENTIAL PRIVACY** in a study that is listed here: its updates were neither "
            "clipped nor noised. Treat its model as patient data.\n"
        )
    parts.append(
        "Made from the hospitals' privacy ledgers: it says what ran, not what was configured.\n"
    )
    parts.extend(map(_study_section, by_study.values()))
    if not by_study:
        parts.append("Nothing was released: the ledgers hold no reservation.\n")
    parts.append("## For life\n\n" + _for_life(statements))
    releases = table(
        ("what leaves the hospital", "covered?", "because"), _releases(everything, rehearsal)
    )
    parts.append(
        "## Every release, and whether the guarantee covers it\n\n"
        + releases
        + "\nEverything else "
        "stays in the hospital: the patients' data and numbers, exact scores, gradients, losses, the true "
        "number of patients, the ledger and the log.\n"
    )
    parts.append("## Public by assumption\n\n" + items(PUBLIC))
    parts.append("## What is not protected\n\n" + items(NOT_PROTECTED))
    ledgers = [(s.hospital, str(s.entries), f"`{s.head}`") for s in statements]
    parts.append(
        "## The ledgers behind this statement\n\n"
        + table(("hospital", "entries", "hash of the last entry"), ledgers)
        + "\n`intramural-client ledger verify --head HASH` says whether a hash is in a ledger.\n"
    )
    parts.append("## Signed\n\n" + _SIGNATURE)
    return "\n".join(parts)


def _study_section(rows: list[tuple[Statement, StudyFacts]]) -> str:
    first = rows[0][1]
    parts = [f"## Study '{first.name}'\n\nProtocol digest `{first.digest}`.\n"]
    if all(study.private for _, study in rows):
        parts.append(
            "For every patient of these hospitals: all that left the hospital in this study, but for "
            "what is listed below as not covered, is (epsilon, delta)-differentially private.\n"
        )
        guarantee = [
            (
                statement.hospital,
                account,
                _epsilon(facts.epsilon, study.seeded),
                f"{facts.asked:g}" if facts.asked is not None else "-",
                _accountants(facts.epsilon),
                f"{math.ceil(1000 * facts.right_guesses) / 10} %",
            )
            for statement, study in rows
            for account, facts in study.accounts.items()
        ]
        header = ("hospital", "patients", "guarantee", "agreed epsilon", "accountants")
        parts.append(table((*header, "right guesses at most"), guarantee))
        parts.append(
            "The last column: somebody who sees every covered release and has to guess at even odds "
            "whether one given patient took part is right at most so often (50 % is a coin), "
            "whatever else they know.\n"
        )
    else:
        parts.append("**This study gives no privacy guarantee.**\n")
    parts.append(table(("item", "what ran"), _items(rows)))
    mechanisms = [
        (
            statement.hospital,
            account,
            f"{sigma:.4f}" if sigma else "none",
            f"{q:g}",
            str(steps),
            _values(study, "nominal-patients") if account == "training" else "-",
        )
        for statement, study in rows
        for account, facts in study.accounts.items()
        for sigma, q, steps in facts.mechanisms
    ]
    columns = ("hospital", "patients", "noise multiplier sigma", "rate q", "steps T")
    parts.append(table((*columns, "nominal patients"), mechanisms))
    requests = [
        (
            statement.hospital,
            str(study.answered),
            str(study.reserved - study.answered),
            _minute(study.began),
            _minute(study.ended),
        )
        for statement, study in rows
    ]
    counted = ("hospital", "requests answered", "reserved only", "first reservation (UTC)")
    parts.append(table((*counted, "last reservation (UTC)"), requests))
    return "\n".join(parts)


def _items(rows: list[tuple[Statement, StudyFacts]]) -> list[tuple[str, str]]:
    def ran(term: str) -> str:
        values = dict.fromkeys(value for _, study in rows for value in study.terms[term])
        return ", then ".join(str(value) for value in values)

    private = all(study.private for _, study in rows)
    mechanism = "no clipping and no noise"
    if private:
        mechanism = (
            "DP-SGD: in each step the gradient of the sum of a patient's drawn views is clipped to "
            f"norm C = {ran('clipping-norm')}, summed over patients, and N(0, (sigma C)²) is added; "
            "the divisor is the public q x nominal patients"
        )
    set_apart = (
        f"validation patients ({ran('validation-fraction')} of all, by a hash of the patient number, or "
        "as the hospital's own list says)"
    )
    judged = all(study.judged for _, study in rows)
    noise = ran("noise")
    if any(study.seeded for _, study in rows):
        noise += ": **a known seed, so no privacy**"
    return [
        ("unit", f"the {ran('unit')}: all data of a patient, in all rounds together"),
        ("neighbouring relation", f"{ran('neighbours')} patient"),
        ("mechanism, training", mechanism),
        (
            "mechanism, validation",
            f"a histogram of what the model says, 2 x {ran('histogram-bins')} cells, to which a patient "
            f"adds at most 1 in L2, {'plus N(0, sigma²) in each cell' if private else 'without noise'}"
            if judged
            else "none: there is nothing to judge",
        ),
        (
            "sampling really used",
            f"training: {ran('sampling')} at rate q, an empty draw is a step; at most "
            f"{ran('views-per-patient')} of a patient's views in a step"
            + ". Validation: all of them in every evaluation (q = 1)"
            * judged,
        ),
        (
            "two accounts",
            f"{set_apart} are never trained on"
            if judged
            else f"only that of the training patients; {set_apart} take no part",
        ),
        (
            "delta",
            f"{ran('delta')}; a protocol may ask for a tenth of 1 / nominal patients at the most",
        ),
        (
            "composition",
            f"all requests of this study ({ran('rounds')} rounds of {ran('steps-per-round')} steps "
            "were planned), over crashes and restarts; for life: below",
        ),
        (
            "trust model",
            "local: noise is added at the hospital before anything leaves; the coordinator and the "
            "other hospitals may be curious. The epsilon is the hospital's own word: nobody outside "
            "can check it",
        ),
        ("noise source", noise),
        ("computed by", f"{ran('software')}, engine {ran('engine')}, {ran('precision')}"),
    ]


def _for_life(statements: Sequence[Statement]) -> str:
    rows = []
    for statement in statements:
        for account, epsilon in statement.for_life.items():
            cap = "-" if statement.cap is None else f"{statement.cap:g}"
            rows.append((statement.hospital, account, _epsilon(epsilon, statement.seeded), cap))
    return "All studies in a hospital's ledger together, composed and not added up.\n\n" + table(
        ("hospital", "patients", "guarantee", "lifetime cap"), rows
    )


def _epsilon(epsilon: Epsilon, void: bool) -> str:
    if math.isinf(epsilon.value):
        return "none (something was released without noise)"
    return f"epsilon {rounded_up(epsilon.value)} at delta {epsilon.delta:g}" + (
        " **(void)**" * void
    )


def _accountants(epsilon: Epsilon) -> str:
    second = epsilon.second
    own = rounded_up(epsilon.value)
    return f"{epsilon.accountant} {own}, {second.accountant} {rounded_up(second.value)}"


def rounded_up(epsilon: float) -> str:
    """`epsilon` to three decimals, never less than it is."""
    return f"{math.ceil(1000 * epsilon) / 1000:.3f}" if math.isfinite(epsilon) else "infinite"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _values(study: StudyFacts, term: str) -> str:
    return ", then ".join(str(value) for value in study.terms[term])


def releases(*, judged: bool) -> list[tuple[str, str, str]]:
    """Of `RELEASES` what can leave: no histogram where no model is judged."""
    return [row for row in RELEASES if judged or row[0] not in (_HISTOGRAM, _SUPPRESSED)]


def _releases(studies: Sequence[StudyFacts], rehearsal: bool) -> list[tuple[str, str, str]]:
    # Of a hospital without a study yet, all that may ever leave.
    judged = not studies or any(study.judged for study in studies)
    return [*releases(judged=judged), *[REHEARSAL_RELEASE] * rehearsal]
