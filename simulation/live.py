"""What a person sees while a rehearsal runs: a live table, or a line a round where there is no terminal."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.ledger import Spend
from client.privacy.accounting import epsilon_of
from common.tasks import task_of
from server.checkpoint import RoundRecord
from server.flags import WORDS, rounds_flagged
from server.page import runs
from simulation.rehearsal import Rehearsal


def shown(value: float | None, digits: int = 3) -> str:
    """A number for a table, a dash when it is not defined."""
    return "–" if value is None else f"{value:.{digits}f}"


class Silent:
    """Nobody watches."""

    def round_started(self, server_round: int, asked: list[str]) -> None: ...
    def connected(self, hospitals: list[str]) -> None: ...
    def answered(self, hospital: str, code: str | None) -> None: ...
    def round_closed(self, record: RoundRecord) -> None: ...


class LiveTable:
    """Round, state, epsilon and the judge's figure of each hospital, time left. Use as a context manager.

    Figures and epsilon are worked out in a thread beside the run, so that the run does not wait.
    """

    def __init__(self, rehearsal: Rehearsal, console: Console) -> None:
        self._rehearsal = rehearsal
        self._console = console
        self._rounds = rehearsal.protocol.rounds
        self._round = 0
        self._prepared = 0.0
        self._records: list[RoundRecord] = []
        self._started = time.monotonic()
        self._state = dict.fromkeys(rehearsal.protocol.hospital_names, "waiting")
        self._judge = task_of(rehearsal.protocol).judge
        self._own: dict[str, float | None] = {}
        self._pooled: float | None = None
        self._evaluated = 0
        self._epsilon: dict[str, float] = {}
        self._looks: list[Future[None]] = []
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="table")
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> "LiveTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._beside.shutdown(wait=True)
        if self._console.is_terminal:
            self._live.stop()
        if failure is None:
            for look in self._looks:
                look.result()  # what went wrong beside the run must not stay unheard

    def preparing(self, share: float) -> None:
        """The coordinator pre-trains the initial model; `share` of it is done, 0..1."""
        done = int(share * 10)
        if not self._console.is_terminal and done > int(self._prepared * 10):
            self._console.print(f"pre-training on phantoms: {share:.0%}", highlight=False)
        self._prepared = share

    def round_started(self, server_round: int, asked: list[str]) -> None:
        self._round = server_round
        doing = "training" if server_round <= self._rounds else "evaluating"
        self._state = dict.fromkeys(self._state, "absent") | dict.fromkeys(asked, doing)

    def connected(self, hospitals: list[str]) -> None:
        """In a rehearsal nobody comes or goes."""

    def answered(self, hospital: str, code: str | None) -> None:
        self._state[hospital] = "answered" if code is None else f"refused {code}"

    def round_closed(self, record: RoundRecord) -> None:
        for hospital in record.missing:
            self._state[hospital] = "missing"
        self._records.append(record)
        line = f"{self._now()}: {len(record.answered)} of {len(self._state)} hospitals answered"
        for hospital, codes in record.flags.items():
            line += f"; warning: {hospital}: {', '.join(WORDS[code] for code in codes)}"
        spends = self._rehearsal.spends()
        self._looks.append(self._beside.submit(self._look, record, spends, line))

    def _look(self, record: RoundRecord, spends: dict[str, list[Spend]], line: str) -> None:
        judge = self._judge
        if judge is not None and self._rehearsal.protocol.evaluates(record.round):
            scores = self._rehearsal.scores(record.round - 1)
            self._own = {name: judge.discrimination(s) for name, s in scores.items()}
            self._pooled = judge.discrimination(judge.concatenate(list(scores.values())))
            self._evaluated = record.round - 1
        delta = self._rehearsal.protocol.privacy.delta
        self._epsilon = {name: epsilon_of(s, delta).value for name, s in spends.items()}
        if not self._console.is_terminal:
            line = f"{line}; {self._headline()}; {self._time_left()}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _now(self) -> str:
        if self._round == 0:
            return f"pre-training {self._prepared:.0%}" if self._prepared else "starting"
        if self._round > self._rounds:
            return "final evaluation"
        return f"round {self._round}/{self._rounds}"

    def _headline(self) -> str:
        said = []
        if self._judge is not None:
            figure = f"pooled {self._judge.figure} {shown(self._pooled)}"
            said.append(f"{figure} after {self._evaluated} rounds")
        if self._epsilon and self._rehearsal.protocol.privacy.mechanism != "none":
            delta = self._rehearsal.protocol.privacy.delta
            said.append(f"epsilon {max(self._epsilon.values()):.2f} at delta {delta:g} spent")
        return "; ".join(said) or "nothing is judged"

    def _time_left(self) -> str:
        if not self._records:
            return "starting"
        spent = sum(record.seconds for record in self._records)
        left = (self._rounds + 1 - self._round) * spent / len(self._records)
        return (
            f"about {left:.0f} s left"
            if left
            else f"{time.monotonic() - self._started:.0f} s in all"
        )

    def _table(self) -> Group:
        table = Table(show_edge=False, pad_edge=False)
        figure = [] if self._judge is None else [self._judge.figure]
        for column in ("hospital", "patients", "state", *figure, "epsilon"):
            table.add_column(column, justify="left" if column in ("hospital", "state") else "right")
        for hospital in self._rehearsal.protocol.hospitals:
            name = hospital.name
            table.add_row(
                name,
                str(hospital.nominal_patients),
                self._state[name],
                *(shown(self._own.get(name)) for _ in figure),
                shown(self._epsilon.get(name), 2),
            )
        headline = Text(f"{self._headline()}; {self._time_left()}")
        return Group(Text(self._now(), style="bold"), headline, table, *self._warnings())

    def _warnings(self) -> list[Text]:
        return [
            Text(f"warning: {hospital}: {WORDS[code]} (round {runs(rounds)})", style="yellow")
            for (hospital, code), rounds in rounds_flagged(self._records).items()
        ]
