"""What a person sees, with a terminal and without."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from common.protocol import StudyProtocol
from simulation.hospitals import from_phantoms, settle
from simulation.live import LiveTable
from simulation.rehearsal import Rehearsal

SmallStudy = Callable[..., StudyProtocol]


@pytest.fixture
def rehearsal(tmp_path: Path, small_study: SmallStudy) -> Rehearsal:
    protocol = small_study(north=6, west=4)
    data = from_phantoms(protocol, tmp_path, seed=1)
    return Rehearsal(
        protocol, tmp_path, settle(protocol, tmp_path, data, device="cpu", noise_seed=1)
    )


@pytest.mark.slow
def test_without_a_terminal_there_is_a_line_a_round(rehearsal: Rehearsal) -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    with LiveTable(rehearsal, console) as table:
        rehearsal.carry_out(table, resume=False)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    starts = ["round 1/3", "round 2/3", "round 3/3", "final evaluation"]
    assert [line.split(":")[0] for line in lines] == starts
    assert all("2 of 2 hospitals answered" in line for line in lines)
    assert [f"after {n} rounds" in line for n, line in enumerate(lines)] == [True] * 4
    spent = [float(line.split("epsilon ")[1].split()[0]) for line in lines]
    assert spent[0] < spent[1] < spent[2] == spent[3] <= 8.0
    assert "at delta 1e-05" in lines[-1]


def test_the_table_shows_every_hospital_its_state_and_what_it_spent(rehearsal: Rehearsal) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with LiveTable(rehearsal, console) as table:
        table.preparing(0.5)
        table.round_started(1, ["north"])
        table.answered("north", "E-DATA")
        rehearsal.carry_out(table, resume=False)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for word in ("north", "west", "answered", "final evaluation", "epsilon", "s in all"):
        assert word in shown, word
