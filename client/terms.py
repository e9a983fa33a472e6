"""The terms of a reservation: what one has to know, beside the spends, to state what was promised.

Public constants only, from the study protocol and the site policy, never a figure of the cohort. They
are written into the ledger with every reservation, so that a privacy statement is made from what ran
and not from what is configured today. Changing one of them makes a reservation another one.
"""

from importlib.metadata import version

from client.ledger import Terms
from client.policy import SitePolicy
from common.protocol import StudyProtocol
from common.tasks import bins_of

FROM_THE_SYSTEM = "operating system"
TEST_MODE = "test mode"


def terms_of(protocol: StudyProtocol, policy: SitePolicy) -> Terms:
    """The terms on which `policy`'s hospital answers any request of `protocol`."""
    training, privacy = protocol.training, protocol.privacy
    return {
        "hospital": policy.hospital,
        "study-name": protocol.study,
        "rehearsal": policy.rehearsal,
        "unit": "patient",
        "neighbours": "add or remove one",
        "mechanism": privacy.mechanism,
        "sampling": "Poisson by patient",
        "clipping-norm": privacy.max_grad_norm,
        "epsilon": privacy.epsilon,
        "validation-epsilon": privacy.validation_epsilon,
        "delta": privacy.delta,
        "lifetime-cap": policy.max_epsilon,
        "rounds": protocol.rounds,
        "steps-per-round": training.steps_per_round,
        "views-per-patient": training.views_per_patient,
        "nominal-patients": protocol.hospital(policy.hospital).nominal_patients,
        "validation-fraction": protocol.data.validation_fraction,
        "validation-column": protocol.data.split or "none",
        "histogram-bins": bins_of(protocol),
        "noise": FROM_THE_SYSTEM if policy.noise_seed is None else TEST_MODE,
        "engine": policy.engine,
        "precision": policy.precision,
        "software": f"intramural {version('intramural')}",
    }
