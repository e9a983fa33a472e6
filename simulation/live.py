"""What a person sees while a rehearsal runs: a live table, or a line a round where there is no terminal."""

import time
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.metrics import Scores, auroc
from server.checkpoint import RoundRecord
from simulation.rehearsal import Rehearsal


def shown(value: float | None, digits: int = 3) -> str:
    """A number for a table, a dash when it is not defined."""
    return "–" if value is None else f"{value:.{digits}f}"


class Silent:
    """Nobody watches."""

    def round_started(self, server_round: int, asked: list[str]) -> None: ...
    def answered(self, hospital: str, code: str | None) -> None: ...
    def round_closed(self, record: RoundRecord) -> None: ...


class LiveTable:
    """Round, AUROC, state and epsilon of each hospital, time left. Use as a context manager.

    Epsilon and AUROC are worked out in a thread beside the run, so that the run does not wait.
    """

    def __init__(self, rehearsal: Rehearsal, console: Console) -> None:
        self._rehearsal = rehearsal
        self._console = console
        self._rounds = rehearsal.protocol.rounds
        self._round = 0
        self._prepared = 0.0
        self._seconds: list[float] = []
        self._started = time.monotonic()
        self._state = dict.fromkeys(rehearsal.protocol.hospital_names, "waiting")
        self._auroc: dict[str, float | None] = {}
        self._pooled: float | None = None
        self._evaluated = 0
        self._epsilon: dict[str, float] = {}
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="table")
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> "LiveTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._beside.shutdown(wait=True)
        if self._console.is_terminal:
            self._live.stop()

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

    def answered(self, hospital: str, code: str | None) -> None:
        self._state[hospital] = "answered" if code is None else f"refused {code}"

    def round_closed(self, record: RoundRecord) -> None:
        for hospital in record.missing:
            self._state[hospital] = "missing"
        self._seconds.append(record.seconds)
        self._beside.submit(self._look, record)

    def _look(self, record: RoundRecord) -> None:
        scores = self._rehearsal.scores(record.round - 1)
        self._auroc = {name: auroc(s) for name, s in scores.items()}
        self._pooled = auroc(Scores.concatenate(list(scores.values())))
        self._evaluated = record.round - 1
        self._epsilon = {name: e.value for name, e in self._rehearsal.spent().items()}
        if not self._console.is_terminal:
            answered = f"{len(record.answered)} of {len(self._state)} hospitals answered"
            line = f"{self._headline()}, {answered}, {self._time_left()}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _headline(self) -> str:
        last = self._evaluated
        after = "initial model" if last == 0 else f"after round {last}/{self._rounds}"
        line = f"{after}: AUROC {shown(self._pooled)}"
        if self._epsilon and self._rehearsal.protocol.privacy.mechanism != "none":
            delta = self._rehearsal.protocol.privacy.delta
            line += f", epsilon spent {max(self._epsilon.values()):.2f} at delta {delta:g}"
        return line

    def _time_left(self) -> str:
        if not self._seconds:
            return "starting"
        left = (self._rounds + 1 - self._round) * sum(self._seconds) / len(self._seconds)
        return (
            f"about {left:.0f} s left"
            if left
            else f"{time.monotonic() - self._started:.0f} s in all"
        )

    def _table(self) -> Group:
        table = Table(show_edge=False, pad_edge=False)
        for column in ("hospital", "patients", "state", "AUROC", "epsilon"):
            table.add_column(column, justify="left" if column in ("hospital", "state") else "right")
        for hospital in self._rehearsal.protocol.hospitals:
            name = hospital.name
            table.add_row(
                name,
                str(hospital.nominal_patients),
                self._state[name],
                shown(self._auroc.get(name)),
                shown(self._epsilon.get(name), 2),
            )
        now = f"round {min(self._round, self._rounds)}/{self._rounds}"
        if self._round == 0 and self._prepared:
            now = f"pre-training the initial model on phantoms: {self._prepared:.0%}"
        return Group(
            Text(now, style="bold"), Text(f"{self._headline()}, {self._time_left()}"), table
        )
