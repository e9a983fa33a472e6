"""The faults of the canary's battery at a hospital with CT series."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from client.canary import ct, ct_damage, damage, sayings
from client.canary.hospital import Hospital
from client.canary.injecting import (
    Arm,
    Fault,
    Reached,
    damaged,
    fails,
    meanwhile,
    of_data,
    of_patches,
    of_series,
    quoted,
    set_aside,
    set_to,
    stream_fails,
    together,
)
from client.canary.names import NAME, TEXT, patient_id
from client.canary.sayings import of, system
from client.data import cache, codestream, ct_folder, dicom, patches

FULL = system(errno.ENOSPC)
# As client.data.dicom knows it: only client.data may load pydicom.
PYDICOM = vars(dicom)["config"]
CHARACTER_SET, SERIES_UID = 0x00080005, 0x0020000E
ROW = f"{ct.series_uid(ct_damage.SERIES)},nodule,{patient_id(ct_damage.SERIES // 2)}"

# What is left out, why, and the round is answered from what is left.
SET_ASIDE = [
    Fault(name, set_aside(change, reason), "series", ends="answered")
    for name, change, reason in [
        ("cut off within the name", ct_damage.edited(ct_damage.within_the_name), "truncated"),
        ("too few pixels", ct_damage.edited(ct_damage.without_last_pixels), "fewer than rows"),
        ("a name that does not end", ct_damage.edited(ct_damage.length_too_long), "truncated"),
        ("a sequence without end", ct_damage.edited(ct_damage.without_end), "header is damaged"),
        ("no DICOM file", ct_damage.edited(ct_damage.no_dicom), "not a DICOM file"),
        ("a damaged frame of RLE", ct_damage.edited(ct_damage.broken_frame, 3), "compressed"),
        ("a type that there is not", ct_damage.value(0x00100020, "??"), "more than is plausible"),
        ("rows of a wrong type", ct_damage.value(0x00280010, "PN"), "header is damaged"),
        ("a number that is none (IS)", ct_damage.value(0x00200013, "IS"), "header is damaged"),
        ("a number that is none (DS)", ct_damage.value(0x00180050, "DS"), "spacing"),
        ("a number that is none (US)", ct_damage.value(0x00280120, "US"), "header is damaged"),
        ("a slope that is none", ct_damage.value(0x00281053, "DS"), "rescale slope"),
        ("a modality that is none", ct_damage.value(0x00080060, "CS"), "not a CT image"),
        ("a series named so", ct_damage.value(SERIES_UID, "UI", NAME), "not among the usable"),
        (
            "two patients in a series",
            ct_damage.value(0x00100020, "LO", image=1),
            "several patients",
        ),
        ("a syntax named so", ct_damage.syntax(NAME), "compression needs"),
        ("an unknown syntax", ct_damage.syntax("1.2.3"), "compression needs"),
        ("a deflated file", ct_damage.syntax(ct.DEFLATED), "deflated"),
        ("a slice that is a pipe", damage.pipe, "a pipe"),
        ("a slice that leads outside", damage.link_to_outside, "leads out"),
        ("a slice that is gone", damage.no_file, "not among the usable"),
        ("a NIfTI volume that is none", ct_damage.no_volume, "NIfTI"),
        ("a row of an unknown series", damage.row(f"{TEXT},nodule,{TEXT},1,1,1,"), "not among"),
        ("a place outside", damage.row(f"{ROW},900,900,900,{TEXT}"), "outside of its series"),
    ]
]

REFUSED = [
    Fault(name, damaged(change), "series", ends="refused")
    for name, change in [
        ("a coordinate that is a name", damage.row(f"{ROW},1,{NAME},1,")),
        ("a finding of an unknown class", damage.row(f"1.2.3,{TEXT},{TEXT},1,1,1,")),
        ("another patient of a series", damage.row(f"{ROW}{TEXT},8,8,0,{TEXT}")),
        ("a finding with too many cells", damage.row(f"{ROW},1,1,1,,{TEXT}")),
        ("a finding whose quote is open", damage.row(f'1.2.3,nodule,"{TEXT},1,1,1,')),
        ("findings not in UTF-8", damage.row(f"{ROW},1,1,1,{TEXT}\xe9")),
        ("findings of other columns", damage.columns(f"{TEXT},label,label")),
        ("no usable slice", ct_damage.all_of_them(ct_damage.no_dicom)),
    ]
]


def _warns(change: ct_damage.Change, *more: Arm) -> Arm:
    """Strikes when Python's warnings get the name from pydicom."""
    return quoted(warnings, "warn", together(damaged(change), *more))


@contextmanager
def _at_debug(_: Hospital, __: Reached) -> Iterator[None]:
    """pydicom logs every element that it reads."""
    PYDICOM.debug(True, default_handler=False)
    try:
        yield
    finally:
        PYDICOM.debug(False, default_handler=False)


INJECTED = [
    Fault(name, arm, "series")
    for name, arm in [
        ("pydicom cannot read", fails(dicom, "read_dataset", of(ValueError))),
        ("pydicom reads beyond the end", fails(dicom, "read_dataset", of(EOFError))),
        ("pydicom panics", fails(dicom, "read_dataset", of(sayings.Panic))),
        ("pydicom has no memory", fails(dicom, "read_dataset", of(MemoryError))),
        ("no frame in the pixels", fails(codestream, "generate_frames", of(RuntimeError))),
        ("a decoder panics", fails(codestream, "generate_frames", of(sayings.Panic))),
        ("pixels that are no numbers", fails(np, "frombuffer", of(ValueError))),
        ("SciPy cannot resample", fails(patches, "map_coordinates", of(RuntimeError))),
        ("a volume fails", fails(ct_folder, "volume", sayings.caused_from_afar)),
        (
            "a pydicom that logs",
            meanwhile(partial(sayings.log_of_a_library, "pydicom"), dicom, "read_dataset"),
        ),
        ("a pydicom that warns", meanwhile(sayings.warn, dicom, "read_dataset")),
        ("a pydicom that prints", meanwhile(sayings.print_it, dicom, "read_dataset")),
        ("pydicom at DEBUG", quoted(PYDICOM.logger, "debug", _at_debug)),
        ("an unknown character set", _warns(ct_damage.value(CHARACTER_SET, "CS", NAME))),
        (
            "a UID that pydicom checks",
            _warns(
                ct_damage.value(SERIES_UID, "UI", NAME),
                set_to(PYDICOM.settings, "reading_validation_mode", PYDICOM.WARN),
            ),
        ),
        ("list the series", fails(os, "listdir", system(), of_data)),
        ("look at a slice", fails(Path, "lstat", system(), of_series)),
        ("open a slice", fails(os, "open", system(errno.EACCES), of_series)),
        ("read a slice", stream_fails(system(), of_series)),
        ("make a folder of patches", fails(os, "mkdir", FULL, of_patches)),
        ("open a file of patches", fails(os, "open", system(errno.EROFS), of_patches)),
        ("write patches", stream_fails(FULL, of_patches)),
        ("sync patches", fails(os, "fsync", FULL, of_patches)),
        ("rename patches", fails(os, "replace", FULL, of_patches)),
        ("map patches into memory", fails(np, "load", system(), of_patches)),
        ("look up patches", fails(cache.PatchCache, "load", of(ValueError))),
    ]
]

SERIES = SET_ASIDE + REFUSED + INJECTED
