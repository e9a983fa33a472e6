"""The rounds as hospital and coordinator have them: agreement, disagreement, and a file that is none."""

import re
from pathlib import Path
from typing import Any

import pytest

from client.approval import approve
from client.ledger import Ledger
from client.pack.archive import PAGE, README
from client.pack.dossier import gather
from client.pack.quorum import Quorum, compare, read_rounds
from common.errors import RunError
from common.protocol import StudyProtocol
from server.checkpoint import RoundRecord
from tests.packing import MakeStudy, pack, packed, recorded, two_rounds, written

pytestmark = pytest.mark.slow  # seconds together


@pytest.fixture
def asked(office: Any, small_study: MakeStudy) -> StudyProtocol:
    """A study of which the office answered two rounds."""
    return two_rounds(office, small_study())


def compared(office: Any, rows: list[dict[str, Any]]) -> Quorum:
    rounds = read_rounds(written(office.folder / "rounds.jsonl", rows))
    return compare(gather(office.site), rounds)


def test_own_rounds_are_the_ledgers(office: Any, asked: StudyProtocol) -> None:
    office.answer(asked, rounds=1, sealed=False, approved_studies=(asked.digest,))
    text = packed(gather(office.site))["5-rounds.md"]
    with Ledger.read(office.state) as ledger:
        heads = [r.head for r in ledger.reservations()]
    assert re.findall(r"`([0-9a-f]{64})` \|$", text, re.MULTILINE) == heads
    assert text.count("**not sealed**") == 1
    assert "**Not given.**" in text
    assert "--rounds rounds.jsonl" in text


def test_a_coordinator_that_recorded_what_happened_agrees(
    office: Any, asked: StudyProtocol
) -> None:
    rows = recorded(office, asked)
    RoundRecord.read(rows[0])  # the coordinator's own form
    quorum = compared(office, rows)
    assert quorum.disagreements == ()
    text = packed(gather(office.site), quorum)["5-rounds.md"]
    assert "agree with this hospital's ledger in every round" in text
    assert text.count("| 1 of 2: north | - | west | - | agrees: answered |") == 2
    out = office.folder / "agrees.zip"
    done = pack(office, "--rounds", str(office.folder / "rounds.jsonl"), "--out", str(out))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": {"north": "f" * 64}}, "is not in this ledger"),
        ({"heads": {}}, "recorded no ledger head"),
        ({"policies": {"north": "f" * 64}}, "is not in this egress log"),
    ],
)
def test_a_disagreement_is_named_loudly(
    office: Any, asked: StudyProtocol, changes: dict[str, Any], said: str
) -> None:
    quorum = compared(office, recorded(office, asked, **changes))
    assert len(quorum.disagreements) == 2
    assert said in quorum.disagreements[0]
    files = packed(gather(office.site), quorum)
    for name in (README, PAGE, "5-rounds.md"):
        assert "DISAGREEMENT" in files[name], name
    assert files["5-rounds.md"].count("**DISAGREES**") == 2
    out = office.folder / "loud.zip"
    done = pack(office, "--rounds", str(office.folder / "rounds.jsonl"), "--out", str(out))
    assert done.exit_code == 2
    assert said in done.output
    assert out.exists()  # it is evidence


def test_heads_of_another_round_or_never_sealed_disagree(office: Any, asked: StudyProtocol) -> None:
    rows = recorded(office, asked)
    rows[0]["heads"], rows[1]["heads"] = rows[1]["heads"], rows[0]["heads"]
    said = compared(office, rows).disagreements
    assert ["is of round 2" in said[0], "is of round 1" in said[1]] == [True, True]
    office.answer(asked, rounds=1, sealed=False, approved_studies=(asked.digest,))
    last = recorded(office, asked)[-1]
    (only,) = compared(office, [last | {"round": 1}]).disagreements
    assert "was never sealed here" in only


def test_an_answer_that_was_not_used_is_no_disagreement(office: Any, asked: StudyProtocol) -> None:
    rows = recorded(office, asked, answered=["west"], heads={}, policies={}, missing=["north"])
    rows[1] |= {"refused": {"north": "E-REPLY-ROLLBACK"}, "missing": []}
    quorum = compared(office, rows)
    assert quorum.disagreements == ()
    assert quorum.standing[0].startswith("missing; answered here on ")
    assert quorum.standing[1].startswith("refused, E-REPLY-ROLLBACK; answered here on ")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "\x00",
        '{"round": 1}',
        '{"round": 2, "answered": [], "refused": {}, "missing": [], "heads": {}}',
        '{"round": 1, "answered": ["<img src=x>"], "refused": {}, "missing": [], "heads": {}}',
        '{"round": 1, "answered": [], "refused": {"north": "any text"}, "missing": [], "heads": {}}',
        '{"round": 1, "answered": [], "refused": {}, "missing": [], "heads": {"north": "abc"}}',
    ],
)
def test_what_is_no_file_of_rounds_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(RunError, match="line 1"):
        read_rounds(path)
    with pytest.raises(RunError, match="cannot read"):
        read_rounds(tmp_path / "absent")


def test_rounds_are_of_one_study(office: Any, small_study: MakeStudy, asked: StudyProtocol) -> None:
    approve(office.site, small_study(north=11, west=4))
    with pytest.raises(RunError, match="name the study with --study"):
        compare(gather(office.site), ())
    assert compare(gather(office.site, asked.digest), ()).protocol == asked
    with pytest.raises(RunError, match="fits 2"):
        gather(office.site, "small")
    with pytest.raises(RunError, match="fits 0"):
        gather(office.site, "absent")


def test_the_card_reads_the_released_histograms(office: Any, asked: StudyProtocol) -> None:
    cells = [[60.0] * 8 + [0.0] * 8, [0.0] * 8 + [60.0] * 8]  # every positive above every negative
    rows = recorded(office, asked, histogram=cells, histogram_noise=0.5)
    rows[1] |= {"histogram": None, "histogram_noise": None}
    files = packed(gather(office.site), compared(office, rows))
    assert re.search(
        r"\| initial model \| 1\.000 \| 0\.9\d\d to 1\.000 \|", files["6-model-card.md"]
    )
    bad = compared(office, recorded(office, asked, histogram=[[1.0]], histogram_noise=0.5))
    with pytest.raises(RunError, match="expected a histogram of this study in round 1"):
        packed(gather(office.site), bad)
