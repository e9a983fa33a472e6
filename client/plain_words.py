"""A study in plain words, for whoever approves it: what is computed, what leaves, what it costs.

Everything is computed from the protocol, this hospital's policy and its ledger; nothing is a promise
of the coordinator's.
"""

from collections.abc import Mapping
from math import prod

from client.ledger import Account
from client.policy import SitePolicy
from client.privacy.budget import protocol_noise
from client.statement_text import releases
from common.bounds import MOST_EXTRA_NOISE
from common.model_spec import model_spec, update_spec
from common.page_parts import count, plural
from common.protocol import StudyProtocol
from common.tasks import task_of

TRAINED = {
    "all": "every weight",
    "norm-and-head": "the last layer and all normalisations",
    "head": "the last layer",
}


def in_plain_words(
    protocol: StudyProtocol, policy: SitePolicy, noise: Mapping[Account, float]
) -> dict[str, list[str]]:
    """Heading -> sentences. `noise` is the noise multiplier of each account at this hospital."""
    return {
        f"Study '{protocol.study}', digest {protocol.digest}": _who(protocol, policy),
        "What is computed here": _computed(protocol),
        "What leaves this hospital": _leaves(protocol),
        "What never leaves": [
            f"{_never(protocol)}, patient ids, file names and paths, losses, exact scores and counts, the "
            f"text of any error. The vault, which sees the patients, has no network.",
        ],
        "What it costs, at most": _costs(protocol, policy, noise),
        "Where this hospital is stricter": _stricter(protocol, policy, noise),
        "What epsilon does not cover": [
            f"{what.capitalize()}: {why}."
            for what, covered, why in releases(judged=task_of(protocol).judge is not None)
            if "NOT" in covered
        ],
    }


def _never(protocol: StudyProtocol) -> str:
    view = task_of(protocol).view
    return plural(view).capitalize() + ", DICOM tags" * (view == "image")


def _who(protocol: StudyProtocol, policy: SitePolicy) -> list[str]:
    own = protocol.hospital(policy.hospital)
    others = [hospital.name for hospital in protocol.hospitals if hospital != own]
    where, task = protocol.coordinator, task_of(protocol)
    return [
        f"Task: {protocol.task}, {task.purpose(protocol)}. For research; not a medical device.",
        f"With {', '.join(others) or 'no other hospital'}; '{own.name}' is agreed to have "
        f"{own.nominal_patients} training patients. This number is public, the true one is not.",
        f"Coordinator: {where.address if where else 'none, a rehearsal'}. A round closes with at "
        f"least {protocol.participation.quorum} hospitals.",
        *task.remarks(protocol),
    ]


def _computed(protocol: StudyProtocol) -> list[str]:
    training, model, task = protocol.training, protocol.model, task_of(protocol)
    weights = sum(prod(shape) for shape in model_spec(protocol).values())
    said = [
        f"A model ({model.name}, {weights:,} weights) is trained in {count(protocol.rounds, 'round')} "
        f"of {count(training.steps_per_round, 'step')}: {TRAINED[model.trainable]}. In each step every "
        f"training patient is drawn with probability {training.sampling_rate:g}, with up to "
        f"{count(training.views_per_patient, task.view)}.",
        f"{protocol.evaluations} times, the last at the end, the model is tried on the "
        f"validation patients, who are never trained on: {protocol.data.validation_fraction:.0%} of "
        f"all, chosen by their ids."
        if protocol.evaluations
        else "The model is not tried on anybody here: there is nothing to judge in this study.",
    ]
    if protocol.privacy.mechanism == "none":
        return [*said, "There is NO differential privacy in this study: a rehearsal."]
    norm = protocol.privacy.max_grad_norm
    return [
        *said,
        f"What one patient contributes to a step is cut to length {norm:g}, and noise of standard "
        f"deviation {norm:g} times the noise multiplier is added to the sum before anything else.",
    ]


def _leaves(protocol: StudyProtocol) -> list[str]:
    values = sum(prod(shape) for shape in update_spec(protocol).values())
    return [
        f"{protocol.rounds} times the noised change of {values:,} weights "
        f"({4 * values:,} bytes each).",
        *_histograms(protocol),
        "With each: the noise multiplier, two hashes of the ledger, one of the approved policy. Or, "
        "in place of an answer, a code with a fixed text.",
        "Size and SHA-256 of every message are written down before it leaves, in state/egress.jsonl; "
        "intramural-client verify checks them.",
    ]


def _histograms(protocol: StudyProtocol) -> list[str]:
    judge = task_of(protocol).judge
    if judge is None:
        return []
    return [
        f"{protocol.evaluations} times a noised histogram, {judge.cells}: 2 x "
        f"{judge.bins(protocol)} numbers."
    ]


def _costs(
    protocol: StudyProtocol, policy: SitePolicy, noise: Mapping[Account, float]
) -> list[str]:
    privacy = protocol.privacy
    if privacy.mechanism == "none":
        return ["No epsilon bounds what is learnt about a patient: there is no noise."]
    validation = (
        f"Validation patients: epsilon {min(privacy.validation_epsilon, policy.max_epsilon):g} at "
        f"delta {privacy.delta:g}, noise multiplier {noise['validation']:.4g}."
        if protocol.evaluations
        else "Validation patients: nothing, since nothing of them is released."
    )
    return [
        f"Training patients: epsilon {min(privacy.epsilon, policy.max_epsilon):g} at delta "
        f"{privacy.delta:g}, noise multiplier {noise['training']:.4g}.",
        validation,
        f"Unit: the patient, with all data, added or removed, over all rounds. Together with all "
        f"other studies on these patients never more than {policy.max_epsilon:g} on either account, "
        f"for their life (max-epsilon): after that the vault refuses.",
    ]


def _stricter(
    protocol: StudyProtocol, policy: SitePolicy, noise: Mapping[Account, float]
) -> list[str]:
    limits, said = policy.limits, []
    if protocol.privacy.mechanism != "none":
        own = protocol_noise(protocol)
        for account, multiplier in noise.items():
            if multiplier > own[account]:
                said.append(
                    f"The {account} patients get the noise multiplier {multiplier:.4g}, the protocol "
                    f"asks for {own[account]:.4g}: by the cap, by what was spent before, or by "
                    f"min-noise-multiplier {limits.min_noise_multiplier:g}. At most "
                    f"{MOST_EXTRA_NOISE:g} times is accepted."
                )
    if (judge := task_of(protocol).judge) is not None:
        said.append(
            f"A histogram is released where {judge.each} has at least "
            f"{count(limits.smallest_group, 'validation patient')} (smallest-group); otherwise the answer "
            f"says that it is suppressed."
        )
    if limits.hours is not None:
        said.append(f"Patients are computed with within {limits.hours} only (hours).")
    said.append(
        f"Of the policy's limits this study uses {protocol.rounds} of {limits.max_rounds} rounds, "
        f"{protocol.total_steps} of {limits.max_steps} local steps, {protocol.evaluations} of "
        f"{limits.max_evaluations} evaluations."
    )
    return said
