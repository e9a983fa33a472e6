"""Every number of both guidelines is there once, and each fact that an item names is known."""

import re
import string
from pathlib import Path

import pytest

from server.checklist import CHECKLIST, guidelines, known_facts
from server.checklist_items import CLAIM, TRIPOD_AI
from server.model_card import card_of
from server.model_card_words import Size
from tests.answering import MakeStudy
from tests.unit.server.test_model_card import WEIGHTS, finished, papers

# How many parts each item of TRIPOD+AI has, by its table 2; all others have one. 52 in all.
PARTS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
NUMBERS = [
    f"{n}{letter}"
    for n in range(1, 28)
    for letter in (string.ascii_lowercase[: PARTS[n]] if n in PARTS else ("",))
]


def test_every_item_has_its_number_once() -> None:
    assert len(NUMBERS) == 52
    assert [item.number for items in TRIPOD_AI.values() for item in items] == NUMBERS
    assert [item.number for items in CLAIM.values() for item in items] == [
        str(n) for n in range(1, 45)
    ]


def test_the_document_has_every_item_once_under_its_guideline(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    text = papers(tmp_path, finished(make_study()))[CHECKLIST]
    tripod, claim = (re.split(r"^## .*$", text, flags=re.M))[1:]
    first = re.compile(r"^\| (\d+[a-g]?) \|", re.M)
    assert first.findall(tripod) == NUMBERS
    assert first.findall(claim) == [str(n) for n in range(1, 45)]
    assert [title in text for title in guidelines(make_study())] == [True, True]


def test_an_item_has_facts_or_says_who_has_them(make_study: MakeStudy, tmp_path: Path) -> None:
    text = papers(tmp_path, finished(make_study()))[CHECKLIST]
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == 52 + 44
    for row in rows:
        known, left = row[2], row[3].removesuffix(" |")
        assert known.startswith("From the ") or known == "-"
        assert (known, left) != ("-", "-"), row


def test_each_fact_is_used_and_each_one_named_is_known(make_study: MakeStudy) -> None:
    facts = finished(make_study())
    known = known_facts(card_of(facts, WEIGHTS), facts, Size(10, 6))
    named = {
        key
        for sections in guidelines(facts.protocol).values()
        for items in sections.values()
        for item in items
        for key in item.known
    }
    assert named == set(known)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("6b", "max-slice-thickness-mm = 2.5"),
        ("13", "From the protocol: max-slice-thickness-mm = 2.5"),
        ("12c", "strategy = fedavg, weights = cohort"),
        ("8a", "“yes” is positive, “no” negative"),
        ("22", "SHA-256 `"),
        ("23a", "AUROC 0."),
    ],
)
def test_facts_of_the_protocol_and_the_run_are_filled_in(
    make_study: MakeStudy, tmp_path: Path, number: str, said: str
) -> None:
    protocol = make_study(
        inclusion={"max-slice-thickness-mm": 2.5},
        aggregation={"weights": "cohort"},
    )
    text = papers(tmp_path, finished(protocol))[CHECKLIST]
    rows = [line for line in text.splitlines() if line.startswith(f"| {number} |")]
    assert any(said in row for row in rows)  # of one guideline or both
