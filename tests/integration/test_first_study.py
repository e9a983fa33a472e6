"""docs/first-study.md, run as written: DICOM export, data report, study, evaluation, prediction, ledger."""

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser import open_page
from tests.e2e.test_guides import DOCS, environment, lacking, sections

GUIDE = DOCS / "first-study.md"
STEPS = (
    "Get an export",
    "Look at the data",
    "Rehearse the study",
    "Look at the result at one hospital",
    "Ask the model about a patient",
    "Check the books",
)


@pytest.mark.slow
def test_the_whole_path_as_it_is_written(tmp_path: Path) -> None:
    guide = sections(GUIDE)
    assert tuple(guide) == STEPS
    for heading, blocks in guide.items():
        assert blocks, heading
        for block in blocks:
            done = subprocess.run(
                ["bash", "-e", "-c", block.script],
                cwd=tmp_path,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=240,
                check=False,
            )
            assert done.returncode == 0, f"{heading}\n{block.script}\n{done.stdout}"
            missing = lacking(block.seen, done.stdout)
            assert missing is None, f"{heading}: not seen: {missing}\n{done.stdout}"
    _what_is_left(tmp_path)
    _no_page_asks_for_anything(tmp_path)


def _what_is_left(folder: Path) -> None:
    with (folder / "visitor/predictions.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    with (folder / "trial/held-out/VISITOR-0001/findings.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    # What is said is of the visitor's findings, in their places, and finding by finding.
    assert [(row["x"], row["y"], row["z"]) for row in predicted] == [
        (row["x"], row["y"], row["z"]) for row in found
    ]
    assert len({row["score"] for row in predicted}) == len(found)
    exact = [folder / "north.html", *(folder / "north").iterdir(), *(folder / "visitor").iterdir()]
    assert len(exact) > 10
    for path in exact:  # what is said of patients is for the hospital's own user alone
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (folder / "north").iterdir():
        assert "NORTH-00" not in path.read_text(), path


PAGES = {
    "north.html": "Data report of north",
    "runs/first/report.html": "Learning curve",
    "north/evaluation.html": "Evaluation at north",
    "north/report.html": "Report for north",
    "visitor/predictions.html": "says of 4 findings",
}


def _no_page_asks_for_anything(folder: Path) -> None:
    if shutil.which("chromium") is None:
        return  # the rest of the path was walked; the pages' own tests read their HTML
    for number, (page, said) in enumerate(PAGES.items()):
        opened = open_page((folder / page).as_uri(), folder / f"browser-{number}")
        assert said in opened.dom, page
        assert "Content Security Policy" not in opened.complaints, page
        assert opened.requests == frozenset(), page
    leak = folder / "leak.html"
    leak.write_text('<img src="http://pictures.example/1.png"><p>a page that asks')
    assert open_page(leak.as_uri(), folder / "leak").requests == {"http://pictures.example/1.png"}
