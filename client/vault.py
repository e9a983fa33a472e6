"""The vault: the process that sees the patients and has no network.

    request ─> policy ─> inbound model ─> ledger.reserve ─> evaluate ─> train
                                           reply <─ ledger.seal <─ egress <──┘

Bytes of one typed request in, bytes of one typed reply out; nothing else passes, and no exception.
What a hospital may say about a failure is a code and a fixed text; the reason stays in its own log.
"""

import logging

from client import egress
from client.data import Cohort, open_cohort
from client.evidence import keep_scores, noised_histogram
from client.ledger import Account, Ledger, Spend
from client.policy import SitePolicy, permit
from client.privacy.accounting import training_spend, validation_spend, within
from client.privacy.randomness import RandomStream
from client.training import choose_device, evaluate, load_model, train, trained_arrays
from common import arrays, messages
from common.errors import BudgetError, InternalError, IntramuralError, MessageError
from common.files import locked
from common.messages import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from common.model_spec import model_spec, update_spec
from common.protocol import Images, StudyProtocol, parse_protocol

log = logging.getLogger("intramural.vault")


class Vault:
    """One hospital's vault under one site policy. Calls may come one at a time only."""

    def __init__(self, policy: SitePolicy) -> None:
        self.policy = policy
        self._cohorts: dict[Images, Cohort] = {}

    def handle(self, frame: bytes) -> bytes:
        """The frame of the reply, or of the coded refusal, to the request in `frame`. Never raises."""
        try:
            request = messages.decode(frame)
            if isinstance(request, messages.HelloRequest):
                return messages.encode(messages.HelloReply(hospital=self.policy.hospital))
            if isinstance(request, TrainRequest | EvaluateRequest):
                with locked(self.policy.state / "vault.lock"):
                    return self._answer(request)
            raise MessageError(f"a {request.kind} is not a request")
        except IntramuralError as error:
            log.warning("refused: %s: %s", error.code, error)
            return messages.encode(messages.Refusal.of(error))
        except Exception:
            log.exception("unexpected error")
            return messages.encode(messages.Refusal.of(InternalError()))

    def _answer(self, request: TrainRequest | EvaluateRequest) -> bytes:
        protocol = parse_protocol(request.protocol)
        permit(protocol, self.policy)
        arrays.check(request.arrays, model_spec(protocol))  # before any patient file is opened
        key = messages.fingerprint(request)
        with Ledger.open(self.policy.state) as ledger:
            if (sealed := ledger.sealed_reply(key)) is not None:
                return sealed  # the same question never trains, and never spends, twice
            spends = self._spends(request, protocol)
            self._afford(ledger, spends, protocol)
            ledger.reserve(key, protocol.digest, request.round, spends)
            reply = self._work(request, protocol, spends, key)
            frame = egress.release(reply, update_spec(protocol))
            ledger.seal(key, frame)
            return frame

    def _work(
        self,
        request: TrainRequest | EvaluateRequest,
        protocol: StudyProtocol,
        spends: dict[Account, Spend],
        key: str,
    ) -> TrainReply | EvaluateReply:
        cohort = self._cohort(protocol)
        device = choose_device(self.policy.device)
        stream = self._stream(protocol, request.round)
        model = load_model(protocol, request.arrays, device)
        scores = evaluate(model, cohort.validation, device)
        keep_scores(self.policy.state, protocol, request.round - 1, scores)  # never leaves
        histogram = noised_histogram(scores, spends["validation"], stream)
        study, server_round = protocol.digest, request.round
        if isinstance(request, EvaluateRequest):
            return EvaluateReply(study=study, round=server_round, request=key, histogram=histogram)
        nominal = protocol.hospital(self.policy.hospital).nominal_patients
        train(model, cohort.training, protocol, nominal, spends["training"], stream, device)
        update = arrays.difference(trained_arrays(model), request.arrays)
        return TrainReply(
            study=study, round=server_round, request=key, histogram=histogram, arrays=update
        )

    def _spends(
        self, request: TrainRequest | EvaluateRequest, protocol: StudyProtocol
    ) -> dict[Account, Spend]:
        spends: dict[Account, Spend] = {"validation": validation_spend(protocol)}
        if isinstance(request, TrainRequest):
            spends["training"] = training_spend(protocol)
        return spends

    def _afford(
        self, ledger: Ledger, spends: dict[Account, Spend], protocol: StudyProtocol
    ) -> None:
        if protocol.privacy.mechanism == "none":
            return  # permitted in a rehearsal only, where there is nothing to protect from oneself
        for account, spend in spends.items():
            after = [*ledger.spends(account), spend]
            if not within(after, protocol.privacy.delta, self.policy.max_epsilon):
                raise BudgetError(
                    f"this request would bring the {account} patients above the lifetime cap of "
                    f"epsilon {self.policy.max_epsilon:g} at delta {protocol.privacy.delta:g}"
                )

    def _stream(self, protocol: StudyProtocol, server_round: int) -> RandomStream:
        if self.policy.noise_seed is None:
            return RandomStream.fresh()
        where = (protocol.digest, self.policy.hospital, server_round)
        return RandomStream.for_tests(self.policy.noise_seed, *where)

    def _cohort(self, protocol: StudyProtocol) -> Cohort:
        """The hospital's patients as this study's images, read once and kept in memory."""
        if protocol.images not in self._cohorts:
            pattern = self.policy.patient_id_pattern
            self._cohorts[protocol.images] = open_cohort(self.policy.data, protocol.images, pattern)
        return self._cohorts[protocol.images]
