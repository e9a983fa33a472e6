"""A rehearsal: one study, its simulated hospitals and what the rehearser, who holds all, may look at."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from client.data import Cohort, Patients
from client.evidence import kept_scores
from client.ledger import Ledger, Spend
from client.policy import SitePolicy, load_policy
from client.readers import open_cohort
from client.statement import Statement, statement_of
from client.training import Execution, evaluate, load_model
from client.vault import Vault
from common.arrays import Arrays
from common.errors import DataError, RunError
from common.model_spec import model_spec
from common.protocol import StudyProtocol
from common.tasks import judge_of
from common.weights import load_weights
from server.app import FINAL_MODEL, Run
from server.asking import Observer
from server.beginning import INITIAL_MODEL, begin
from server.rounds import Outcome
from simulation.backends import run_local, run_ray, vault_of
from simulation.hospitals import settle, with_roster
from simulation.pooled import EverybodysVault
from simulation.roll_call import POLL_SECONDS, roll_call

POOLED = "pooled"  # the folder of the pooled baseline, and its hospital


@dataclass(frozen=True)
class Rehearsal:
    """`sites` are the hospitals' `site.toml` by name, in the order of the protocol's roster."""

    protocol: StudyProtocol
    folder: Path
    sites: dict[str, Path]
    backend: str = "local"
    ray_address: str | None = None
    vault: Callable[[Path], Vault] = vault_of  # in this process; on Ray always its own

    def carry_out(
        self,
        observer: Observer,
        *,
        resume: bool,
        initial: Arrays | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Outcome:
        """Run the study to its end. RunError when Flower's engine swallowed what went wrong."""
        spec = begin(self.protocol, self.folder, resume=resume, initial=initial, progress=progress)
        run = Run(self.protocol, self.folder, observer, spec, roll_call, POLL_SECONDS)
        if self.backend == "ray":
            run_ray(run, list(self.sites.values()), address=self.ray_address)
        else:
            run_local(run, list(self.sites.values()), vault=self.vault)
        if run.outcome is None:
            raise RunError("the ServerApp ended without an outcome; run again with --debug")
        return run.outcome

    def policies(self) -> dict[str, SitePolicy]:
        return {name: load_policy(path) for name, path in self.sites.items()}

    def scores(self, after_round: int) -> dict[str, Any]:
        """Exact validation scores of the model after `after_round` rounds, where a hospital has them."""
        judge, found = judge_of(self.protocol), {}
        for name, policy in self.policies().items():
            try:
                found[name] = kept_scores(policy.state, self.protocol.digest, after_round, judge)
            except DataError:
                continue  # it was absent in that round
        return found

    def spends(self) -> dict[str, list[Spend]]:
        """What stands in each hospital's ledger for its training patients, over all restarts."""
        spends = {}
        for name, policy in self.policies().items():
            with Ledger.read(policy.state) as ledger:
                spends[name] = ledger.spends("training")
        return spends

    def statements(self) -> list[Statement]:
        """What each hospital promises in this study, from its own ledger."""
        statements = []
        for name, policy in self.policies().items():
            with Ledger.read(policy.state) as ledger:
                statements.append(statement_of(ledger, name, self.protocol.digest))
        return statements

    def scores_of(self, arrays: Arrays) -> dict[str, Any]:
        """Exact scores of any model of this study on every hospital's validation patients."""
        found = {}
        for name, policy in self.policies().items():
            device = Execution.of(policy).device
            model = load_model(self.protocol, arrays, device)
            patients = self._cohort(policy).validation
            found[name] = evaluate(model, patients, self.protocol, device)
        return found

    def unreadable(self, refused: Mapping[str, str]) -> Iterator[str]:
        """Why hospitals among `refused` (name -> wire code) cannot use their data, in a sentence each.

        In a deployment only the hospital knows; here whoever rehearses holds all data.
        """
        for name, policy in self.policies().items():
            if refused.get(name) == DataError.code:
                try:
                    self._cohort(policy)
                except DataError as error:
                    yield f"{name}: {error}"

    def _cohort(self, policy: SitePolicy) -> Cohort[Patients]:
        return open_cohort(self.protocol, policy, state=policy.state)

    def alone(self, hospital: str, observer: Observer) -> Arrays:
        """The model that `hospital` reaches without the others: same start, steps and guarantee.

        It trains in a folder of its own with a ledger of its own: a what-if of the rehearsal, which
        in earnest would be a second spend on the same patients. Done once, then read.
        """
        policy = load_policy(self.sites[hospital])
        nominal = self.protocol.hospital(hospital).nominal_patients
        folder = self.folder / "local-only" / hospital
        return self._what_if(folder, hospital, nominal, policy, vault_of, observer)

    def pooled(self, observer: Observer) -> Arrays:
        """The model that one hospital with all patients would reach: same start, steps and guarantee.

        As for `alone`, a what-if with a ledger of its own, done once. The patients of all hospitals are
        held in memory at once.
        """
        policies = list(self.policies().values())

        @cache
        def vault(site: Path) -> Vault:
            return EverybodysVault(load_policy(site), [self._cohort(p) for p in policies])

        everybody = sum(hospital.nominal_patients for hospital in self.protocol.hospitals)
        folder = self.folder / POOLED
        return self._what_if(folder, POOLED, everybody, policies[0], vault, observer)

    def _what_if(
        self,
        folder: Path,
        name: str,
        nominal: int,
        like: SitePolicy,
        vault: Callable[[Path], Vault],
        observer: Observer,
    ) -> Arrays:
        """What a study of one hospital, `name`, reaches in `folder`; its policy is as `like`."""
        model = folder / FINAL_MODEL
        if not model.exists():
            protocol = with_roster(self.protocol, {name: nominal})
            sites = settle(
                protocol,
                folder / "hospitals",
                {name: like.data},
                device=like.device,
                engine=like.engine,
                noise_seed=like.noise_seed,
                patient_id_pattern=like.patient_id_pattern,
            )
            start = in_order(load_weights(self.folder / INITIAL_MODEL), self.protocol)
            alone = Rehearsal(protocol, folder, sites, vault=vault)
            outcome = alone.carry_out(observer, resume=True, initial=start)
            if outcome.stopped != "finished":
                raise RunError(f"training of the baseline '{name}' ended with {outcome.stopped}")
        return in_order(load_weights(model), self.protocol)


def in_order(arrays: Arrays, protocol: StudyProtocol) -> Arrays:
    """`arrays` in the model's own order, which a safetensors file does not keep."""
    return {name: arrays[name] for name in model_spec(protocol)}
