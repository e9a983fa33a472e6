"""What the tests of real processes share: a table of what was done to them, and what held."""

from collections.abc import Callable, Iterator

import pytest

Row = Callable[[str, str, str], None]

ROWS: list[tuple[str, str, str]] = []


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """Notes (failure, what happened, what held), for the table at the end; only of a test that passed."""
    noted: list[tuple[str, str, str]] = []
    yield lambda *words: noted.append(words)
    if not request.session.testsfailed:
        ROWS.extend(noted)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The crash matrix, as CI prints it."""
    if not ROWS:
        return
    terminalreporter.section("what was killed, cut off or attacked, and what held")
    for failure, happened, held in sorted(ROWS):
        terminalreporter.write_line(f"{failure:8} {happened:44} {held}")
