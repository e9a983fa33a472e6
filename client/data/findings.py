"""`findings.csv` beside CT series: which places of which series are of which class and patient."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from client.data.listing import check_cells
from client.data.paths import inside, open_regular
from client.data.split import canonical_patient_id
from common.errors import DataError
from common.tasks.nodule_classification.study import Images

FINDINGS = "findings.csv"
MAX_FINDINGS_BYTES = 64 << 20
_MM = ("x", "y", "z")
_PIXELS = ("row", "column")
_SLICE = "slice"
_OF = ("series_uid", "file")
UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Finding:
    """One row. It names a patient, so it lives only while a cohort is loaded."""

    where: str  # "findings.csv row 7"
    series: str | None  # a SeriesInstanceUID, or else
    file: str | None  # a DICOM slice or a NIfTI volume: relative to the folder, with '/'
    mm: tuple[float, float, float] | None  # patient coordinates (LPS), or
    pixel: tuple[float, float] | None  # row, column from 0, the middle of the first pixel
    number: int | None  # ... and, with `series`, InstanceNumber of their slice
    label: int  # index of images.classes, or UNLABELLED
    patient_id: str  # canonical; empty: as in the DICOM files
    nodule: str = (
        ""  # of the column nodule_id: rows of a series that have the same show one finding
    )


def read_findings(root: Path, images: Images | None) -> tuple[list[Finding], bytes]:
    """All rows of `root`/findings.csv in their order, and the file's bytes.

    Without `images` the findings are to be predicted: they need no label, and none is read.

    The place of a finding is x, y, z, or row and column with, for a series, `slice`
    (InstanceNumber); without one it is the middle of the series, or of what is in the file. DataError
    names the row that cannot be read.
    """
    path = inside(root, FINDINGS, str(root))
    with open_regular(path, str(root)) as file:
        data = file.read(MAX_FINDINGS_BYTES + 1)
    if len(data) > MAX_FINDINGS_BYTES:
        raise DataError(
            f"{path}: expected at most {MAX_FINDINGS_BYTES >> 20} MB, found more; leave out columns "
            f"that are not needed"
        )
    return list(_rows(data, images)), data


def _rows(data: bytes, images: Images | None) -> Iterator[Finding]:
    try:
        # "-sig": spreadsheets put a byte-order mark before the first column's name.
        text = data.decode("utf-8-sig")
        # strict: a quote that is never closed would otherwise swallow all rows after it.
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        _check_columns(reader.fieldnames or (), labelled=images is not None)
        for row in reader:
            where = f"{FINDINGS} row {reader.line_num}"
            check_cells(row, len(reader.fieldnames or ()), where)
            yield _finding({name: value.strip() for name, value in row.items()}, images, where)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(
            f"{FINDINGS}: expected comma-separated text in UTF-8, found something else ({error}); "
            f"save it as CSV in UTF-8"
        ) from error


def _check_columns(found: Sequence[str], *, labelled: bool) -> None:
    known = (*_OF, *_MM, *_PIXELS, _SLICE, "label", "patient_id")
    for column in known:
        if found.count(column) > 1:
            raise DataError(
                f"{FINDINGS}: expected one column {column!r}, found {found.count(column)}; take one out"
            )
    if (labelled and "label" not in found) or sum(column in found for column in _OF) != 1:
        wanted = "the columns 'label' and one of" if labelled else "one of the columns"
        raise DataError(
            f"{FINDINGS}: expected {wanted} {' and '.join(_OF)}, found "
            f"{', '.join(map(repr, found)) or 'an empty file'}; name them in the first row"
        )
    in_mm, in_pixels = (
        [column for column in columns if column in found] for columns in (_MM, (*_PIXELS, _SLICE))
    )
    whole = (
        in_mm in ([], list(_MM))
        and in_pixels in ([], list(_PIXELS), [*_PIXELS, _SLICE])
        and not (in_mm and in_pixels)
        and (not in_pixels or (_SLICE in in_pixels) == ("series_uid" in found))
    )
    if not whole:
        raise DataError(
            f"{FINDINGS}: expected x, y and z, or row and column of a file, or row, column and slice "
            f"of a series_uid, or none of them, found {', '.join(map(repr, in_mm + in_pixels))}; "
            f"give a place in one way"
        )


def _finding(row: dict[str, str], images: Images | None, where: str) -> Finding:
    if images is not None and row["label"] not in images.classes:
        raise DataError(
            f"{where}: expected one of the classes {', '.join(images.classes)}, found "
            f"{row['label']!r}; correct it, or images.classes of the study protocol"
        )
    of = row.get("series_uid") or row.get("file")
    if not of:
        raise DataError(f"{where}: expected a series or a file, found none; name it")
    mm = _numbers(row, _MM, where)
    pixel = _numbers(row, (*_PIXELS, _SLICE) if _SLICE in row else _PIXELS, where)
    if len(pixel) == 3 and not pixel[2].is_integer():
        raise DataError(
            f"{where}: expected a whole number in {_SLICE}, found {row[_SLICE]!r}; give the slice's "
            f"InstanceNumber"
        )
    return Finding(
        where=where,
        series=of if "series_uid" in row else None,
        file=str(PurePosixPath(of)) if "file" in row else None,
        mm=(mm[0], mm[1], mm[2]) if mm else None,
        pixel=(pixel[0], pixel[1]) if pixel else None,
        number=int(pixel[2]) if len(pixel) == 3 else None,
        label=UNLABELLED if images is None else images.classes.index(row["label"]),
        patient_id=canonical_patient_id(row.get("patient_id", "")),
        nodule=row.get("nodule_id", ""),
    )


def _numbers(row: dict[str, str], columns: tuple[str, ...], where: str) -> tuple[float, ...]:
    """The values of `columns`, or none when there are no such columns or all are empty."""
    texts = [row.get(column, "") for column in columns]
    if not any(texts):
        return ()
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError:
        numbers = ()
    if not numbers or not all(math.isfinite(number) and abs(number) < 1e6 for number in numbers):
        raise DataError(
            f"{where}: expected numbers in {', '.join(columns)}, found "
            f"{', '.join(map(repr, texts))}; correct them, with '.' before the decimals"
        )
    return numbers
