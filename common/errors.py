"""Every error that intramural raises on purpose.

IntramuralError                 code             may be said over the wire
├── ProtocolError               E-PROTOCOL       the study protocol is not valid
├── PolicyError                 E-POLICY         the hospital's policy does not allow this request
│   ├── UnknownStudyError       E-POLICY-STUDY   ... has not approved this study protocol
│   ├── RoundError              E-POLICY-ROUNDS  ... the study has no such round
│   ├── BudgetError             E-POLICY-BUDGET  ... the privacy budget does not cover it
│   ├── RehearsalOnlyError      E-POLICY-REHEARSAL  ... allows it in a rehearsal only
│   ├── LimitError              E-POLICY-LIMITS  ... the request exceeds a limit of the policy
│   ├── HoursError              E-POLICY-HOURS   ... does not compute at this hour
│   └── UnapprovedPolicyError   E-POLICY-CHANGED ... was changed and not approved since
├── MessageError                E-MESSAGE        the message is malformed or too large
├── ModelError                  E-MODEL          the model does not fit the study protocol
├── DataError                   E-DATA           the hospital's data cannot be used
├── ResourceError               E-RESOURCE       the hospital's machine is too small for this study
├── AccountingError             E-ACCOUNTING     epsilon cannot be computed, or not with certainty
├── LedgerError                 E-LEDGER         the privacy ledger cannot be used
├── EgressError                 E-EGRESS         the reply was held back at the hospital
├── CheckpointError             E-CHECKPOINT     the checkpoint cannot be used
├── RunError                    E-RUN            the run cannot start or go on
├── ConnectionFileError         E-CONNECTION     the relay's settings cannot be used
├── VersionError                E-VERSION        coordinator and hospital run different versions
├── ChannelError                E-CHANNEL        the vault does not answer the relay
├── KeyFileError                E-KEY            a key, request or certificate cannot be used
├── RosterError                 E-ROSTER         the coordinator's roster cannot be used
├── CoordinatorError            E-COORDINATOR    the coordinator cannot start or go on
├── HospitalError               E-HOSPITAL       the hospital's processes cannot start or go on
└── InternalError               E-INTERNAL       an unexpected error at the hospital

Over the wire goes only `code` and the fixed text above (THREATS.md T13: Flower itself sends the
exception's text). The message of the exception is the detail: it says what was expected, what was
found and what to do, and stays in the log of the machine on which it was raised.
"""

from typing import ClassVar

EXIT_REFUSED = 2  # exit code of a command or process that ends with one of these


class IntramuralError(Exception):
    """Base of all. `str(error)` is the local detail; `code` and `public_text` may leave."""

    code: ClassVar[str] = "E-INTERNAL"
    public_text: ClassVar[str] = "an unexpected error at the hospital"


class ProtocolError(IntramuralError):
    code = "E-PROTOCOL"
    public_text = "the study protocol is not valid"


class PolicyError(IntramuralError):
    code = "E-POLICY"
    public_text = "the hospital's policy does not allow this request"


class UnknownStudyError(PolicyError):
    code = "E-POLICY-STUDY"
    public_text = "the hospital has not approved this study protocol"


class RoundError(PolicyError):
    code = "E-POLICY-ROUNDS"
    public_text = "the study that the hospital approved has no such round"


class BudgetError(PolicyError):
    code = "E-POLICY-BUDGET"
    public_text = "the hospital's privacy budget does not cover this request"


class RehearsalOnlyError(PolicyError):
    code = "E-POLICY-REHEARSAL"
    public_text = "the hospital allows this request in a rehearsal only"


class LimitError(PolicyError):
    code = "E-POLICY-LIMITS"
    public_text = "the request exceeds a limit of the hospital's policy"


class HoursError(PolicyError):
    code = "E-POLICY-HOURS"
    public_text = "the hospital does not compute at this hour"


class UnapprovedPolicyError(PolicyError):
    code = "E-POLICY-CHANGED"
    public_text = "the hospital's policy was changed and not approved since"


class MessageError(IntramuralError):
    code = "E-MESSAGE"
    public_text = "the message is malformed or too large"


class ModelError(IntramuralError):
    code = "E-MODEL"
    public_text = "the model does not fit the study protocol"


class DataError(IntramuralError):
    code = "E-DATA"
    public_text = "the hospital's data cannot be used"


class ResourceError(IntramuralError):
    code = "E-RESOURCE"
    public_text = "the hospital's machine is too small for this study"


class AccountingError(IntramuralError):
    code = "E-ACCOUNTING"
    public_text = "the hospital's privacy accountants have no answer that they agree on"


class LedgerError(IntramuralError):
    code = "E-LEDGER"
    public_text = "the hospital's privacy ledger cannot be used"


class EgressError(IntramuralError):
    code = "E-EGRESS"
    public_text = "the reply was held back at the hospital"


class CheckpointError(IntramuralError):
    code = "E-CHECKPOINT"
    public_text = "the checkpoint cannot be used"


class RunError(IntramuralError):
    code = "E-RUN"
    public_text = "the run cannot start or go on"


class ConnectionFileError(IntramuralError):
    code = "E-CONNECTION"
    public_text = "the hospital's connection settings cannot be used"


class VersionError(IntramuralError):
    code = "E-VERSION"
    public_text = "coordinator and hospital run different versions of intramural"


class ChannelError(IntramuralError):
    code = "E-CHANNEL"
    public_text = "the hospital's vault does not answer its relay"


class KeyFileError(IntramuralError):
    code = "E-KEY"
    public_text = "a key, a request or a certificate cannot be used"


class RosterError(IntramuralError):
    code = "E-ROSTER"
    public_text = "the coordinator's roster cannot be used"


class CoordinatorError(IntramuralError):
    code = "E-COORDINATOR"
    public_text = "the coordinator cannot start or go on"


class HospitalError(IntramuralError):
    code = "E-HOSPITAL"
    public_text = "the hospital's processes cannot start or go on"


class InternalError(IntramuralError):
    """Stands for any exception that nobody foresaw; made only where one is caught."""
