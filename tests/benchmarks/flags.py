"""Whether the coordinator's flags see a site with wrong labels, and whether they leave a clean run alone.

    python tests/benchmarks/flags.py                           # phantoms, epsilon 8
    python tests/benchmarks/flags.py --no-dp
    python tests/benchmarks/flags.py --data ../shared/data/luna16-train --odd siemens

For each seed two rehearsals, through vaults, ledgers, admission and the round loop: one as it is, one in
which hospital `--odd` has every label swapped. The seed draws the phantoms, the patients of each step
and the noise. Prints who was flagged, for what and from which round on, and how many of the runs.
"""

import argparse
import csv
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from common import outbound
from common.protocol import StudyProtocol, load_protocol, parse_protocol
from common.tasks.nodule_classification.study import of_images
from server.flags import rounds_flagged
from simulation.hospitals import from_folder, from_phantoms, settle
from simulation.live import Silent
from simulation.prepare import FIRST_RUN, LUNG_NODULES
from simulation.rehearsal import Rehearsal

Found = dict[tuple[str, str], list[int]]  # (hospital, flag) -> rounds


def without_dp(protocol: StudyProtocol) -> StudyProtocol:
    """`protocol` as a rehearsal with --no-dp has it."""
    training = protocol.without_dp or protocol.training
    privacy = protocol.privacy.model_copy(update={"mechanism": "none"})
    return parse_protocol(
        protocol.model_copy(update={"training": training, "privacy": privacy}).to_toml()
    )


def swap_labels(folder: Path, classes: tuple[str, str], into: Path) -> Path:
    """A copy of a hospital's `folder` whose manifest says the other class of every image."""
    shutil.copytree(folder, into)
    with (into / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (into / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "label": classes[1 - classes.index(row["label"])]})
    return into


def flags_of(
    protocol: StudyProtocol, data: Mapping[str, Path], folder: Path, seed: int
) -> tuple[Found, float]:
    """The flags of one rehearsal, and the seconds that it took."""
    started = time.monotonic()
    sites = settle(protocol, folder / "hospitals", data, device="cpu", noise_seed=seed)
    outcome = Rehearsal(protocol, folder, sites).carry_out(Silent(), resume=False)
    if outcome.stopped != "finished":
        raise SystemExit(f"the rehearsal ended with {outcome.stopped}: {outcome.last}")
    return rounds_flagged(outcome.state.records), time.monotonic() - started


def compare(
    protocol: StudyProtocol, data: Mapping[str, Path], odd: str, folder: Path, seed: int
) -> dict[str, Found]:
    """What is flagged in a clean run, and in one in which `odd` has its labels swapped."""
    classes = of_images(protocol, "swapping labels").images.classes
    wrong = swap_labels(data[odd], classes, folder / "swapped")
    found = {}
    for kind, those in (("clean", dict(data)), ("swapped", {**data, odd: wrong})):
        found[kind], seconds = flags_of(protocol, those, folder / kind, seed)
        said = "; ".join(f"{h} {flag} from round {r[0]}" for (h, flag), r in found[kind].items())
        print(f"seed {seed}, {kind}: {said or 'nothing'} ({seconds:.0f} s)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of hospitals; phantoms without")
    parser.add_argument("--odd", default="east", help="the hospital whose labels are swapped")
    parser.add_argument("--no-dp", action="store_true")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outbound.switch_off()
    protocol = load_protocol(FIRST_RUN if options.data is None else LUNG_NODULES)
    if options.no_dp:
        protocol = without_dp(protocol)
    seen = false = 0
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if options.data is None:
                data = from_phantoms(protocol, folder / "phantoms", seed)
            else:
                protocol, data = from_folder(protocol, options.data)
            found = compare(protocol, data, options.odd, folder, seed)
        seen += any(hospital == options.odd for hospital, _ in found["swapped"])
        false += len({hospital for hospital, _ in found["clean"]})
    print(
        f"{options.odd} with swapped labels flagged in {seen} of {options.seeds} runs; "
        f"{false} false flags in {options.seeds} clean runs"
    )


if __name__ == "__main__":
    main()
