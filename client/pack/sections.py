"""Sections of the reviewer pack: the site policy, the studies, and what is not covered."""

from collections.abc import Iterator

from client.pack.dossier import ApprovedStudy, Dossier
from client.pack.markdown import items, plain, table, utc
from client.policy import SitePolicy
from client.statement_text import NOT_PROTECTED, releases
from common.protocol import StudyProtocol


def policy_section(dossier: Dossier) -> str:
    """What `site.toml` permits, key by key. Paths, users and patterns only as set or not set."""
    policy, found = dossier.policy, dossier.verified
    when = (
        "not approved yet" if found is None else f"as it was approved on {utc(found.approved)} UTC"
    )
    return (
        "# 1. Site policy\n\n"
        f"What hospital '{policy.hospital}' permits, written by the hospital alone. Between it and a "
        "study protocol the stricter wins; what is not permitted here is refused, whatever the "
        "coordinator asks. A changed byte in the file stops the vault until it is approved again.\n\n"
        f"The file `site.toml` is {when}. Its SHA-256 is `{policy.digest}`.\n\n"
        "The file itself is not in this pack, since it names places on the hospital's machines. Of paths, "
        "users and patterns the table says only whether they are set.\n\n"
        + table(
            ("key", "in plain words", "here"),
            ((f"`{key}`", words, value) for key, words, value in _policy_rows(policy)),
        )
    )


def _policy_rows(policy: SitePolicy) -> Iterator[tuple[str, str, object]]:
    limits, whole = policy.limits, "each account (training, validation), for the patients' life"
    yield "hospital", "the name on every roster", policy.hospital
    studies = ", ".join(d[:12] for d in policy.approved_studies) or "none"
    yield "approved-studies", "studies that may ask anything at all, by digest", studies
    yield "max-epsilon", f"most epsilon of {whole}, all studies together", f"{policy.max_epsilon:g}"
    yield (
        "min-noise-multiplier",
        "least noise, as its standard deviation over the clipping norm; a study that asks for less gets "
        "this much",
        f"{limits.min_noise_multiplier:g}",
    )
    yield "max-rounds", "most rounds of a study", f"{limits.max_rounds:,}"
    yield "max-steps", "most local steps of a study, all rounds together", f"{limits.max_steps:,}"
    yield "max-evaluations", "most histograms of a study", f"{limits.max_evaluations:,}"
    yield (
        "smallest-group",
        "least validation patients in each class, or with and without the event; with fewer no histogram is "
        "released",
        limits.smallest_group,
    )
    yield "models", "models that may be trained", ", ".join(limits.models) or "none"
    yield "metrics", "what may be said of a model's quality", ", ".join(limits.metrics) or "none"
    yield "hours", "when patients may be computed with (local time)", limits.hours or "at any hour"
    yield (
        "rehearsal",
        "one person holds all the data, nothing is a real study",
        _yes(policy.rehearsal),
    )
    yield (
        "noise-seed",
        "noise from a known number, which makes it removable: for tests only",
        _set(policy.noise_seed),
    )
    yield "data", "folder of the patients' data, only ever read", _set(policy.data)
    yield "state", "folder of ledger, egress log and exact scores", _set(policy.state)
    yield (
        "patient-id-pattern",
        "how file names tell patients apart",
        _set(policy.patient_id_pattern),
    )
    yield "socket", "where the vault listens for its relay", _set(policy.socket)
    yield "relay-user", "the one other user who may connect to it", _set(policy.relay_user)
    for key, what, value in (
        ("device", "computed on", policy.device),
        ("engine", "per-patient gradients by", policy.engine),
        ("precision", "computed in", policy.precision),
        (
            "max-views-per-chunk",
            "most images, records or series at once",
            policy.max_views_per_chunk or "as fits",
        ),
    ):
        yield key, f"{what}; changes nothing of what is promised", value


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _set(value: object) -> str:
    return "not set" if value is None else "set"


def study_section(dossier: Dossier) -> str:
    """Each approved study in plain words, with what its digest was compared with."""
    parts = [
        "# 2. Approved studies\n\n"
        "A study is known by the SHA-256 of all its settings, its digest. The words below are computed "
        "from the text that was kept when it was approved, from this hospital's policy and ledger. The noise "
        "is this hospital's own.\n"
    ]
    if not dossier.studies:
        parts.append("No study is approved here.\n")
    for study in dossier.studies:
        parts.append(f"## Study {dossier.name_of(study.digest)}\n\n" + table(*_standing(study)))
        if study.protocol is None:
            parts.append(
                "The text of this study was not kept here, so nothing can be said about it. "
                "`intramural-client approve protocol.toml` keeps it.\n"
            )
            continue
        parts.append(f"All its settings are in `{protocol_file(study.digest)}`.\n")
        for heading, sentences in study.words.items():
            parts.append(f"### {plain(heading)}\n\n{items(sentences)}")
    return "\n".join(parts)


def protocol_file(digest: str) -> str:
    """The name in the pack of the protocol of a study."""
    return f"2-protocol-{digest[:12]}.toml"


def _standing(study: ApprovedStudy) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    kept = "the same" if study.protocol is not None else "no text kept"
    approved = ", ".join(f"{utc(time)} UTC" for time in study.approved)
    today = "permits it"
    if not study.listed:
        today = "refuses it: it is no longer in the list of approved studies"
    elif study.objection is not None:
        today = f"refuses it: {study.objection}"
    return ("checked", "found"), [
        ("digest", f"`{study.digest}`"),
        ("digest computed again from the kept text", kept),
        ("approval in the egress log", approved or "**none**"),
        ("list in the site policy", "holds it" if study.listed else "**does not hold it**"),
        ("the site policy as it stands", today),
    ]


def worst_case(protocol: StudyProtocol) -> tuple[float, float]:
    """(epsilon, delta) of a patient who is at every hospital of the roster: the sums (THREATS.md T24)."""
    privacy, hospitals = protocol.privacy, len(protocol.hospitals)
    epsilon = privacy.epsilon
    if protocol.evaluations:  # here in one account, there in the other
        epsilon = max(epsilon, privacy.validation_epsilon)
    return hospitals * epsilon, hospitals * privacy.delta


def not_covered_section(dossier: Dossier) -> str:
    """Everything that the guarantee leaves open, the trust model, and what root can do."""
    judged = not dossier.protocols or any(protocol.evaluations for protocol in dossier.protocols)
    leaves = releases(judged=judged)
    open_releases = [(what, why) for what, covered, why in leaves if "NOT" in covered]
    several = [_several(protocol) for protocol in dossier.protocols]
    return (
        "# 7. What is not covered\n\n"
        "## What leaves and no epsilon covers\n\n"
        + table(("what leaves", "because"), open_releases)
        + "\n## What no guarantee protects from\n\n"
        + items(NOT_PROTECTED)
        + "\n## The same patient at several hospitals\n\n"
        "No hospital can see that a patient was also elsewhere. Every guarantee holds for its own part; "
        "for such a patient the epsilons add up, and the deltas.\n\n"
        + (
            items(several)
            or "No study is approved here with its text kept, so there is no number.\n"
        )
        + "\n## Whom one has to trust\n\n"
        + items(TRUST)
        + "\n## What a root user of the hospital's machine can do\n\n"
        + items(ROOT)
        + "\n## What is outside this software\n\n"
        + items(OUTSIDE)
    )


def _several(protocol: StudyProtocol) -> str:
    if protocol.privacy.mechanism == "none":
        return (
            f"Study '{protocol.study}' has no differential privacy, so no number bounds anything."
        )
    epsilon, delta = worst_case(protocol)
    hospitals = len(protocol.hospitals)
    return (
        f"Study '{protocol.study}': a patient at all {hospitals} hospitals of the roster has, in the worst "
        f"case and as agreed, epsilon {epsilon:g} at delta {delta:g} (the sum over {hospitals} hospitals), "
        f"instead of {epsilon / hospitals:g} at {delta / hospitals:g}."
    )


TRUST = (
    "The coordinator and the other hospitals need not be trusted with patients: noise is added here, before "
    "anything leaves (local trust model). They may look at everything that leaves, together.",
    "This hospital's own machine, administrators and installed software must be trusted; nobody outside "
    "can check the epsilon that it states.",
    "The coordinator's account of the rounds (section 5) is the coordinator's word. What this hospital can "
    "check of it are the hashes of its own ledger.",
    "The other hospitals' data and labels, and the honesty of their updates, are not seen from here. The "
    "coordinator refuses malformed and oversized updates; one that is well formed and wrong it can at most "
    "flag.",
)

ROOT = (
    "Read the patients' data, the exact scores and the kept reply: no claim is made against root here.",
    "Replace the program, and so what it writes down. What is in this pack is then worth what that "
    "program is.",
    "Edit, cut off or put back one of the books: `verify` finds it by the other one, and refuses; "
    "entries behind the last answer are held by their own chain alone.",
    "Put back the whole state folder, or write both books anew: nothing here can find that. The coordinator "
    "does at the next reply, because every reply names the one before it.",
)

OUTSIDE = (
    "Whether the patients may be used for this study at all: consent, ethics vote, contracts.",
    "Whether the data are free of names: what is burned into an image, or written into a column that the "
    "model is shown, is trained on like anything else.",
    "What is known of the hospital as a whole. The histograms say roughly how well the model does on its "
    "validation patients and how many they are; noise hides one patient, not the hospital.",
    "Whether the model is right. It is for research, not a medical device.",
    "What happens with the model and the released figures after the study.",
)
