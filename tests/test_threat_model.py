"""The threat model names tests: they exist, and none of the threats is without one."""

import re
from pathlib import Path


def test_every_threat_names_tests_that_exist(repository: Path) -> None:
    text = (repository / "docs" / "threat-model.md").read_text()
    rows = re.findall(r"^\| (T\d+) \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == [f"T{number}" for number in range(1, 25)]
    for threat, shown in rows:
        named = re.findall(r"`(tests/[^`]+\.py)(?:::(\w+))?`", shown)
        assert named, threat
        for file, function in named:
            assert (repository / file).is_file(), (threat, file)
            if function:
                source = (repository / file).read_text()
                assert re.search(rf"^def {function}\(", source, re.MULTILINE), (threat, function)
