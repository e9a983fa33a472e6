"""The vault: the process that sees the patients and has no network.

    request ─> policy ─> inbound model ─> price ─> ledger.reserve ─> evaluate ─> train
                                                    reply <─ ledger.seal <─ egress <──┘

Bytes of one typed request in, bytes of one typed reply out; nothing else passes, and no exception.
What a hospital may say about a failure is a code and a fixed text; the reason stays in its own log.
"""

import logging

from client import egress
from client.data import Cohort, open_cohort
from client.evidence import keep_scores, noised_histogram
from client.ledger import Ledger, Reservation
from client.policy import SitePolicy, permit
from client.privacy.budget import price
from client.privacy.randomness import RandomStream
from client.terms import terms_of
from client.training import Execution, evaluate, load_model, train, trained_arrays
from common import arrays, messages
from common.errors import InternalError, IntramuralError, MessageError
from common.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from common.model_spec import model_spec, update_spec
from common.protocol import Images, StudyProtocol, parse_protocol

log = logging.getLogger("intramural.vault")


class Vault:
    """One hospital's vault under one site policy. Calls come one at a time: its ledger is locked."""

    def __init__(self, policy: SitePolicy) -> None:
        self.policy = policy
        self._cohorts: dict[Images, Cohort] = {}

    def handle(self, frame: bytes) -> bytes:
        """The frame of the reply, or of the coded refusal, to the request in `frame`. Never raises."""
        try:
            request = messages.decode(frame)
            if isinstance(request, messages.HelloRequest):
                return egress.release(messages.HelloReply(hospital=self.policy.hospital), {})
            if isinstance(request, TrainRequest | EvaluateRequest):
                return self._answer(request)
            raise MessageError(f"a {request.kind} is not a request")
        except IntramuralError as error:
            log.warning("refused: %s: %s", error.code, error)
            return egress.release(messages.Refusal.of(error), {})
        except Exception:
            log.exception("unexpected error")
            return egress.release(messages.Refusal.of(InternalError()), {})

    def _answer(self, request: TrainRequest | EvaluateRequest) -> bytes:
        protocol = parse_protocol(request.protocol)
        training = isinstance(request, TrainRequest)
        permit(protocol, self.policy, request.round, training=training)
        arrays.check(request.arrays, model_spec(protocol))  # before any patient file is opened
        key = messages.fingerprint(request)
        with Ledger.open(self.policy.state) as ledger:
            if (sealed := ledger.sealed_reply(key)) is not None:
                return sealed  # the same question never trains, and never spends, twice
            terms = terms_of(protocol, self.policy)
            reservation = ledger.pending(key)
            if reservation is None or reservation.terms != terms:
                cap = self.policy.max_epsilon
                spends = price(protocol, request.round, ledger, cap, training=training)
                reservation = ledger.reserve(key, protocol.digest, request.round, spends, terms)
            previous = ledger.previous_head(protocol.digest)
            reply = self._work(request, protocol, reservation, previous)
            frame = egress.release(reply, update_spec(protocol))
            ledger.seal(key, frame)
            return frame

    def _work(
        self,
        request: TrainRequest | EvaluateRequest,
        protocol: StudyProtocol,
        reservation: Reservation,
        previous_head: str | None,
    ) -> TrainReply | EvaluateReply:
        study, server_round, hospital = protocol.digest, request.round, self.policy.hospital
        spends = reservation.spends
        cohort = self._cohort(protocol.images)
        execution = Execution.of(self.policy)
        stream = RandomStream.of(self.policy.noise_seed, study, hospital, server_round)
        model = load_model(protocol, request.arrays, execution.device)
        histogram = None
        if "validation" in spends:
            scores = evaluate(model, cohort.validation, protocol.evaluation, execution.device)
            keep_scores(self.policy.state, study, server_round - 1, scores)  # never leaves
            histogram = noised_histogram(scores, spends["validation"], stream)
        answer = {
            "study": study,
            "round": server_round,
            "request": reservation.request,
            "ledger_head": reservation.head,
            "previous_head": previous_head,
            "histogram": histogram,
            "histogram_noise": spends["validation"].noise_multiplier if histogram else None,
        }
        if isinstance(request, EvaluateRequest):
            return EvaluateReply.model_validate(answer)
        nominal = protocol.hospital(hospital).nominal_patients
        train(model, cohort.training, protocol, nominal, spends["training"], stream, execution)
        update = arrays.difference(trained_arrays(model), request.arrays)
        noise = spends["training"].noise_multiplier
        return TrainReply.model_validate({**answer, "noise_multiplier": noise, "arrays": update})

    def _cohort(self, images: Images) -> Cohort:
        """The hospital's patients as a study's images, read once and kept in memory."""
        if images not in self._cohorts:
            pattern = self.policy.patient_id_pattern
            self._cohorts[images] = open_cohort(self.policy.data, images, pattern)
        return self._cohorts[images]
