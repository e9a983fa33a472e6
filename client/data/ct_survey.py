"""The survey of a folder of CT series: its findings, and how the scanner made each slice."""

from pathlib import Path

import numpy as np

from client.data.ct_folder import Placed, open_ct_folder
from client.data.dicom import CtSlice
from client.data.quarantine import SetAside
from client.data.series import Volume
from client.data.survey import KERNEL, SCANNER, SPACING, THICKNESS, VOLTAGE, YEAR, Survey, Value
from common.progress import Progress
from common.tasks.nodule_classification.study import Images


def survey_ct(
    folder: Path,
    images: Images,
    cache: Path | None,
    progress: Progress,
    set_aside: list[SetAside],
) -> Survey:
    """As `survey`, of which this is one layout."""
    used: list[Placed] = []
    cohort = open_ct_folder(folder, images, cache, progress, set_aside, used)
    facts = [_facts(one.volume) for one in used]
    return Survey(
        cohort=cohort,
        patient_ids=tuple(one.patient_id for one in used),
        rows=tuple(one.where for one in used),
        series=tuple(one.series for one in used),
        studies=tuple(_study(one.volume) for one in used),
        places=np.array([one.mm for one in used]),
        facts={name: tuple(each[name] for each in facts) for name in facts[0]},
        refusal=None,
    )


def _study(of: Volume) -> str | None:
    first = of.slices[0]
    return first.study if isinstance(first, CtSlice) else None


def _facts(of: Volume) -> dict[str, Value]:
    """What the first slice says for its series; of a NIfTI volume only the geometry is known."""
    step, along_column, along_row = np.linalg.norm(of.to_mm[:, :3], axis=0).tolist()
    spacing = round(max(along_column, along_row), 3)
    first = of.slices[0]
    if not isinstance(first, CtSlice):
        return dict.fromkeys((SCANNER, KERNEL, VOLTAGE, YEAR)) | {
            THICKNESS: round(step, 2),
            SPACING: spacing,
        }
    made = first.acquisition
    # Slices may overlap or leave gaps: their distance is not their thickness.
    return {
        SCANNER: " ".join(part for part in (made.maker, made.model) if part) or None,
        KERNEL: made.kernel,
        VOLTAGE: made.kvp,
        THICKNESS: first.thickness,
        SPACING: spacing,
        YEAR: made.year,
    }
