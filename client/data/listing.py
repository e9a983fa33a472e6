"""Which images a hospital's folder has, of which class and patient: from names, not from pixels."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data.paths import entries, existing_folder, inside, open_regular, subfolders
from client.data.split import canonical_patient_id, is_validation_patient
from common.errors import DataError
from common.tasks.nodule_classification.study import Images

MANIFEST = "manifest.csv"
MAX_MANIFEST_BYTES = 64 << 20  # more than half a million rows
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_COLUMNS = ("image", "label", "patient_id")
_SPLIT = "split"
_SERIES, _NODULE = "series_uid", "nodule_id"
_SIDES = ("training", "validation")


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image of the list. It names a patient, so it lives only while a cohort is loaded."""

    path: Path  # resolved, inside the hospital's folder
    label: int  # index of images.classes
    patient_id: str  # canonical
    validation: bool
    where: str  # how an error names it: the manifest and row, or the file
    series: str = ""  # of the columns series_uid and nodule_id, where there are such
    nodule: str = ""


def list_images(folder: Path, images: Images, patient_id_pattern: str | None) -> list[ListedImage]:
    """All images of one hospital, sorted by patient id, then path; DataError when unusable."""
    listed = list_rows(folder, images, patient_id_pattern)
    check_whole(existing_folder(folder), listed, images)
    return listed


def list_rows(folder: Path, images: Images, patient_id_pattern: str | None) -> list[ListedImage]:
    """As `list_images`, without `check_whole`: each row is right by itself."""
    root = existing_folder(folder)
    if os.path.lexists(root / MANIFEST):
        found = _from_manifest(root, images)
    else:
        found = _from_class_folders(root, images, patient_id_pattern)
    return sorted(_each_once(found), key=lambda image: (image.patient_id, image.path))


def _from_manifest(root: Path, images: Images) -> Iterator[ListedImage]:
    manifest = inside(root, MANIFEST, str(root))
    if (size := manifest.stat().st_size) > MAX_MANIFEST_BYTES:
        raise DataError(
            f"{manifest}: expected at most {MAX_MANIFEST_BYTES >> 20} MB, found {size >> 20}; leave out "
            f"columns that are not needed"
        )
    with (
        open_regular(manifest, str(root)) as file,
        # "-sig": spreadsheets put a byte-order mark before the first column's name.
        io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
    ):
        # strict: a quote that is never closed would otherwise swallow all rows after it.
        reader = csv.DictReader(text, strict=True)
        try:
            _check_columns(reader.fieldnames or (), manifest)
            for row in reader:
                where = f"{manifest} row {reader.line_num}"
                check_cells(row, len(reader.fieldnames or ()), where)
                yield _from_row(row, root, images, where)
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            raise DataError(
                f"{manifest} after row {reader.line_num}: expected comma-separated text in UTF-8, "
                f"found something else ({error}); save the manifest as CSV in UTF-8"
            ) from error


def _check_columns(found: Sequence[str], manifest: Path) -> None:
    if not found:
        raise DataError(
            f"{manifest}: expected the columns {', '.join(_COLUMNS)}, found an empty file; "
            f"list the images in it"
        )
    for column in (*_COLUMNS, _SPLIT):
        count = found.count(column)
        if count > 1 or (count == 0 and column != _SPLIT):
            raise DataError(
                f"{manifest}: expected one column {column!r}, found {count} in "
                f"{', '.join(map(repr, found))}; name it in the first row, separated by commas"
            )


def check_cells(row: Mapping[str | Any, object], columns: int, where: str) -> None:
    """DataError when a row of csv.DictReader has more values than there are columns, or fewer."""
    if None in row or None in row.values():
        raise DataError(
            f"{where}: expected {columns} values, found {'more' if None in row else 'fewer'}; put "
            f"values with commas in quotes"
        )


def _from_row(row: dict[str, str], root: Path, images: Images, where: str) -> ListedImage:
    patient_id = canonical_patient_id(row["patient_id"])
    if not patient_id:
        raise DataError(
            f"{where}: expected a patient id, found none; the patient is the unit of privacy, so "
            f"every image needs one"
        )
    if _SPLIT not in row:
        validation = is_validation_patient(patient_id, images.validation_fraction)
    elif row[_SPLIT].strip() in _SIDES:
        validation = row[_SPLIT].strip() == "validation"
    else:
        raise DataError(
            f"{where}: expected {' or '.join(_SIDES)} in column 'split', found {row[_SPLIT]!r}; "
            f"fill the column in every row or leave it out"
        )
    return ListedImage(
        path=inside(root, row["image"].strip(), where),
        label=_label(row["label"].strip(), images, where),
        patient_id=patient_id,
        validation=validation,
        where=where,
        series=row.get(_SERIES, "").strip(),
        nodule=row.get(_NODULE, "").strip(),
    )


def _from_class_folders(
    root: Path, images: Images, patient_id_pattern: str | None
) -> Iterator[ListedImage]:
    if patient_id_pattern is None:
        raise DataError(
            f"{root}: expected {MANIFEST} with the columns {', '.join(_COLUMNS)}, found none; "
            f"write one, or say by patient_id_pattern which part of a file name is the patient"
        )
    pattern = _compiled(patient_id_pattern)
    for class_folder in subfolders(root):
        label = _label(class_folder.name, images, f"folder {str(class_folder)!r}")
        for file in entries(class_folder):
            where = repr(str(file))[1:-1]  # a file name may hold line breaks or undecodable bytes
            if file.suffix.lower() not in SUFFIXES:
                raise DataError(
                    f"{where}: expected image files only ({', '.join(SUFFIXES)}), found another "
                    f"name; move it out of the class folder"
                )
            match = pattern.fullmatch(file.stem)
            patient_id = canonical_patient_id((match and match["patient"]) or "")
            if not patient_id:
                raise DataError(
                    f"{where}: expected a name whose whole stem matches {pattern.pattern!r} with "
                    f"a patient in it, found {file.stem!r}; rename the file or correct the pattern"
                )
            yield ListedImage(
                path=inside(root, f"{class_folder.name}/{file.name}", where),
                label=label,
                patient_id=patient_id,
                validation=is_validation_patient(patient_id, images.validation_fraction),
                where=where,
            )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"expected a regular expression as patient_id_pattern, found {pattern!r} ({error}); "
            f"correct it"
        ) from error
    if set(compiled.groupindex) != {"patient"}:
        raise DataError(
            f"expected one named group (?P<patient>...) in patient_id_pattern, found {pattern!r}; "
            f"name the part of the file name that is the patient"
        )
    return compiled


def _label(name: str, images: Images, where: str) -> int:
    if name not in images.classes:
        raise DataError(
            f"{where}: expected one of the classes {', '.join(images.classes)}, found {name!r}; "
            f"correct it, or images.classes of the study protocol"
        )
    return images.classes.index(name)


def _each_once(found: Iterator[ListedImage]) -> Iterator[ListedImage]:
    """`found`, DataError at the first image that was there before: no list is longer than the folder."""
    first: dict[Path, ListedImage] = {}
    for image in found:
        earlier = first.setdefault(image.path, image)
        if earlier is not image:
            raise DataError(
                f"{image.where}: expected every image once, found the image of {earlier.where} "
                f"again; remove one of the two"
            )
        yield image


def check_whole(root: Path, listed: list[ListedImage], images: Images) -> None:
    """DataError for what only shows over all images together."""
    if not listed:
        raise DataError(f"{root}: expected images, found none; list or copy them into the folder")
    of_patient: dict[str, ListedImage] = {}
    for image in listed:
        other = of_patient.setdefault(image.patient_id, image)
        if other.validation != image.validation:
            raise DataError(
                f"{image.where}: expected all images of a patient on one side, found this "
                f"patient on the other side in {other.where}; correct column 'split'"
            )
    labels = Counter(image.label for image in listed)
    if len(labels) < len(images.classes):
        raise DataError(
            f"{root}: expected images of {' and '.join(images.classes)}, found only "
            f"{images.classes[listed[0].label]}; add the other class"
        )
    if all(image.validation for image in listed):
        raise DataError(
            f"{root}: expected at least one training patient, found all {len(of_patient)} on the "
            f"validation side; add patients"
        )
