"""The planted name, and the search for it in every form in which it may have left."""

import base64
import re
from urllib.parse import quote

NAME = "SECRET^PATIENT"  # as DICOM writes a name

# Forms that a folder, a cell, a PNG's text and a DICOM header take as they are.
PLANTED = (NAME, NAME.lower(), quote(NAME), base64.urlsafe_b64encode(NAME.encode()).decode())
TEXT = " ".join(PLANTED)


def patient_id(patient: int) -> str:
    """Of the planted patients by number: each form comes in turn."""
    return f"{patient} {PLANTED[patient % len(PLANTED)]}"


def _in_base64(text: str) -> list[bytes]:
    """What base64 makes of `text`, wherever in the encoded data it begins; without the ends, which vary."""
    whole = [base64.b64encode(bytes(before) + text.encode()) for before in range(3)]
    standard = [form[4 if before else 0 : -4] for before, form in enumerate(whole)]
    return standard + [form.translate(bytes.maketrans(b"+/", b"-_")) for form in standard]


def _pattern() -> re.Pattern[bytes]:
    any_case = [
        b"secret.{0,6}patient",  # whatever stands for the circumflex: cleaned, escaped, quoted
        b"tneitap.{0,6}terces",
        *(text.encode().hex().encode() for text in (NAME, NAME.lower())),
    ]
    exact = [re.escape(form) for text in (NAME, NAME.lower()) for form in _in_base64(text)]
    return re.compile(b"|".join([*(b"(?i:%b)" % form for form in any_case), *exact]), re.DOTALL)


_PATTERN = _pattern()


def found_in(data: bytes) -> list[str]:
    """The name as `data` holds it, in whatever form, once for each place."""
    narrow = data.replace(b"\0", b"")  # of UTF-16 and UTF-32
    found = _PATTERN.findall(data) or _PATTERN.findall(narrow)
    return [form.decode(errors="replace") for form in found]
