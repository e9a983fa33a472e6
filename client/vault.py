"""The vault: the process that sees the patients and has no network.

    request ─> policy ─> inbound model ─> price ─> ledger.reserve ─> evaluate ─> train
                                     reply <─ egress.release <─ ledger.seal <────┘

Bytes of one typed request in, bytes of one typed reply out, and nothing else passes. What a hospital
may say about a failure is a code and a fixed text; the reason stays in its own log.
"""

import logging
from datetime import datetime
from typing import Any

from client.data import Cohort, Patients
from client.egress import Allowed, large_enough, release
from client.egress_log import EgressLog
from client.evidence import keep_scores, noised
from client.expected import allowed_answer, check_model
from client.ledger import Account, Ledger, Spend
from client.policy import Permit, SitePolicy, check_hours, permit
from client.privacy.budget import price
from client.privacy.randomness import RandomStream
from client.readers import open_cohort
from client.redaction import in_words
from client.terms import terms_of
from client.training import Execution, evaluate, load_model, train, trained_arrays
from common import arrays, messages
from common.errors import InternalError, IntramuralError, MessageError
from common.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from common.protocol import Data, StudyProtocol, parse_protocol
from common.tasks import judge_of

log = logging.getLogger("intramural.vault")


class Vault:
    """One hospital's vault under one site policy. Calls come one at a time: its ledger is locked."""

    def __init__(self, policy: SitePolicy) -> None:
        self.policy = policy
        self._egress = EgressLog(policy.state)
        self._cohorts: dict[tuple[str, Data], Cohort[Patients]] = {}

    def handle(self, frame: bytes) -> bytes:
        """The frame of the reply, or of the coded refusal, to the request in `frame`.

        Raises nothing but EgressError: what cannot be written into the egress log does not leave.
        """
        try:
            approval = self._egress.approval_of(self.policy.digest).hash
            request = messages.decode(frame)
            if isinstance(request, messages.HelloRequest):
                hello = messages.HelloReply(hospital=self.policy.hospital)
                return self._release(messages.encode(hello))
            if isinstance(request, TrainRequest | EvaluateRequest):
                return self._release(*self._answer(request, approval))
            raise MessageError(f"a {request.kind} is not a request")
        except IntramuralError as error:
            log.warning("refused: %s: %s", error.code, in_words(error))
            return self._release(messages.encode(messages.Refusal.of(error)))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # Rust's panics are no Exception
            log.error("unexpected error: %s", in_words(error))
            return self._release(messages.encode(messages.Refusal.of(InternalError())))

    def _release(self, frame: bytes, allowed: Allowed | None = None) -> bytes:
        return release(frame, self.policy.hospital, allowed, self._egress)

    def _answer(
        self, request: TrainRequest | EvaluateRequest, approval: str
    ) -> tuple[bytes, Allowed]:
        protocol = parse_protocol(request.protocol)
        training = isinstance(request, TrainRequest)
        permitted = permit(protocol, self.policy, request.round, training=training)
        check_model(request.arrays, protocol)  # before any patient file is opened
        key, study = messages.fingerprint(request), protocol.digest
        with Ledger.open(self.policy.state) as ledger:
            # The same question never trains, and never spends, twice.
            if (sealed := ledger.sealed_reply(key)) is None:
                check_hours(self.policy, datetime.now().astimezone())
                terms = terms_of(protocol, self.policy)
                reservation = ledger.pending(key)
                if reservation is None or reservation.terms != terms:
                    spends = price(protocol, request.round, ledger, permitted, training=training)
                    reservation = ledger.reserve(key, study, request.round, spends, terms)
                answer = {
                    "study": study,
                    "round": request.round,
                    "request": key,
                    "ledger_head": reservation.head,
                    "previous_head": ledger.previous_head(study),
                    "policy": approval,
                }
                reply = self._work(request, protocol, permitted, reservation.spends, answer)
                sealed = messages.encode(reply)
                ledger.seal(key, sealed, self._egress.head)
            spent = ledger.spends("training", study)
            return sealed, allowed_answer(protocol, self.policy.hospital, request.round, spent)

    def _work(
        self,
        request: TrainRequest | EvaluateRequest,
        protocol: StudyProtocol,
        permitted: Permit,
        spends: dict[Account, Spend],
        answer: dict[str, Any],
    ) -> TrainReply | EvaluateReply:
        study, server_round, hospital = protocol.digest, request.round, self.policy.hospital
        cohort = self.cohort(protocol)
        execution = Execution.of(self.policy)
        stream = RandomStream.of(self.policy.noise_seed, study, hospital, server_round)
        model = load_model(protocol, request.arrays, execution.device)
        released = None
        if "validation" in spends:
            judge = judge_of(protocol)
            scores = evaluate(model, cohort.validation, protocol, execution.device)
            # These never leave.
            keep_scores(self.policy.state, study, server_round - 1, judge.columns(scores))
            if large_enough(judge.groups(scores), permitted.smallest_group):
                released = noised(judge.histogram(protocol, scores), spends["validation"], stream)
        answer |= {
            "histogram": released,
            "histogram_noise": spends["validation"].noise_multiplier if released else None,
            "suppressed": "validation" in spends and released is None,
        }
        if isinstance(request, EvaluateRequest):
            return EvaluateReply.model_validate(answer)
        nominal = protocol.hospital(hospital).nominal_patients
        train(model, cohort.training, protocol, nominal, spends["training"], stream, execution)
        update = arrays.difference(trained_arrays(model), request.arrays)
        noise = spends["training"].noise_multiplier
        return TrainReply.model_validate({**answer, "noise_multiplier": noise, "arrays": update})

    def cohort(self, protocol: StudyProtocol) -> Cohort[Patients]:
        """The hospital's patients as a study sees them, read once and kept in memory."""
        seen = (protocol.task, protocol.data)
        if seen not in self._cohorts:
            self._cohorts[seen] = open_cohort(protocol, self.policy, state=self.policy.state)
        return self._cohorts[seen]
