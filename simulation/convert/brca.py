"""Fed-TCGA-BRCA's published tables -> six hospitals with records.csv: survival of breast cancer.

The files are those of FLamby (Ogier du Terrail et al. 2022, NeurIPS Datasets and Benchmarks), MIT
licence, after Andreux et al. 2020 (arXiv:2006.08997), from the open clinical data of TCGA-BRCA:
brca.csv has a row for each patient, 38 columns of 0 and 1, the age, E (1: died) and T (days);
train_test_split.csv says who is in the benchmark, in which of six regions and on which side.

The 38 columns are 14 categories, each without its reference. Here a category is one column again,
with "other" where all its published columns are 0, as it is for a value too rare to have one.
"""

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from common.errors import DataError
from common.files import write_atomic
from simulation.convert.candidates import table_rows
from simulation.convert.writing import check_own

TABLE, SPLIT = "brca.csv", "train_test_split.csv"
REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")  # fold train_0 ... train_5
SIDES = ("train", "test")
REFERENCE = "other"
AGE = "age_at_index"
CATEGORIES = (
    "ethnicity",
    "race",
    "ajcc_pathologic_m",
    "ajcc_pathologic_n",
    "ajcc_pathologic_stage",
    "ajcc_pathologic_t",
    "ajcc_staging_system_edition",
    "icd_10_code",
    "morphology",
    "primary_diagnosis",
    "prior_malignancy",
    "synchronous_malignancy",
    "treatment_or_therapy",
    "tumor_stage",
)


def convert_brca(source: Path, out: Path, *, published_split: bool) -> dict[str, Counter[str]]:
    """Write `out`/<region>/records.csv; patients, and how many of them died, of each region.

    With `published_split` the published sides are apart, as `out`/train/<region> and
    `out`/test/<region>, and so they are counted. The 8 patients whom the benchmark left out are left
    out. DataError when a table is not the published one, or other hospitals are there.
    """
    for parent in (out / "train", out / "test") if published_split else (out,):
        check_own(parent, REGIONS)
    homes = _homes(source / SPLIT)
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row, where in table_rows(source / TABLE):
        home = homes.pop(row.get("pid", ""), None)
        if home is None:
            continue
        side, region = home
        record = {"patient_id": row["pid"], **_record(row, where)}
        rows[f"{side}/{region}" if published_split else region].append(record)
        what = f"{side} patients" if published_split else "patients"
        counts[region] += Counter({what: 1, "died": int(record["death"] == "yes")})
    if homes or not rows:
        raise DataError(
            f"{source / TABLE}: expected the {len(homes)} further patients that {SPLIT} names, found no "
            f"row of theirs; give both files as published"
        )
    for folder, listed in rows.items():
        text = io.StringIO()
        table = csv.DictWriter(text, list(listed[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(listed)
        (out / folder).mkdir(parents=True, exist_ok=True)
        write_atomic(out / folder / "records.csv", text.getvalue().encode())
    return dict(counts)


def _homes(path: Path) -> dict[str, tuple[str, str]]:
    """Side and region of each patient of the benchmark."""
    known = {f"{side}_{k}": (side, region) for side in SIDES for k, region in enumerate(REGIONS)}
    homes: dict[str, tuple[str, str]] = {}
    for row, where in table_rows(path):
        if row.get("fold2") not in known or row.get("pid", "") in ("", *homes):
            raise DataError(
                f"{where}: expected a new patient as pid, and a fold2 of train_0 to test_5, found "
                f"another row; give the file as published"
            )
        homes[row["pid"]] = known[row["fold2"]]
    return homes


def _record(row: Mapping[str, str], where: str) -> dict[str, str]:
    """A patient's row of the hospital's table, from age to death."""
    died = {"0": "no", "0.0": "no", "1": "yes", "1.0": "yes"}.get(row.get("E", ""))
    try:
        age, days = float(row[AGE]), float(row["T"])
    except (KeyError, ValueError):
        age = days = math.nan
    if died is None or not (math.isfinite(age) and math.isfinite(days)):
        raise DataError(
            f"{where}: expected numbers as {AGE} and T, and 0 or 1 as E, found another; give the file "
            f"as published"
        )
    found = {AGE: f"{age:g}"}
    for category in CATEGORIES:
        own = {
            k.removeprefix(f"{category}_"): v
            for k, v in row.items()
            if k.startswith(f"{category}_")
        }
        of = [name for name, value in own.items() if value == "1"]
        if not own or len(of) > 1 or not set(own.values()) <= {"0", "1"}:
            raise DataError(
                f"{where}: expected columns {category}_... of 0 and at most one 1, found others; give "
                f"the file as published"
            )
        found[category] = of[0] if of else REFERENCE
    return {**found, "days": f"{days:g}", "death": died}
