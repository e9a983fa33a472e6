"""Epsilon and discrimination of a run as JSON, in a process of its own that ends when it has said them.

scipy, matplotlib and the accountant take 170 MB and two seconds: with the page they would stay for as long
as the coordinator does.
"""

import json
import sys
from pathlib import Path

from common.protocol import load_protocol
from common.supervisor import end_with_parent
from server.home import Outcome


def judged(folder: Path) -> str:
    """The fields of `server.live.figures.Judged` of the run in `folder`, as the report has them."""
    # Loaded when it is certain that somebody still waits, see `main`.
    from server.deployed_facts import discrimination, gather
    from server.plots import learning_curve_svg
    from server.status import closed_rounds

    protocol, records = load_protocol(folder / "protocol.toml"), closed_rounds(folder)
    facts = gather(protocol, records, Outcome.load(folder))
    found = discrimination(facts.released)
    return json.dumps(
        {
            "run": folder.name,
            "rounds": len(records),
            "epsilon": {hospital.name: hospital.epsilon for hospital in facts.hospitals},
            "discrimination": None if found is None else [found.value, *found.interval],
            "after": facts.judged_after,
            "curve": learning_curve_svg(facts.rounds, None, facts.figure) if facts.figure else None,
        }
    )


def main() -> None:
    """Entry point of `python -m server.live.judging FOLDER`."""
    end_with_parent()
    sys.stdout.write(judged(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
