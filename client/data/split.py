"""Which side a patient is on: training or validation, from the patient id alone."""

import hashlib

from common.tabular.schema import canonical

# Changing this text moves patients between the sides of every hospital. It must never change.
_DOMAIN = b"intramural/patient-split/v1\x00"


def canonical_patient_id(text: str) -> str:
    """`text` without surrounding white space, in Unicode's composed form (NFC), and 12.0 as 12.

    The same person typed with a trailing blank, or with an accent in two characters instead of
    one, must not become two patients: the privacy guarantee would cover each half only. Nor may one who
    is 12 among the images and 12.0 in a table of records: whose side depends on the id, in all studies.
    """
    return canonical(text)


def is_validation_patient(patient_id: str, validation_fraction: float) -> bool:
    """True when the patient with this canonical id is for validation.

    SHA-256 of the id is a uniform number in [0, 1); below `validation_fraction`, also 0..1, means
    validation. Neither other patients, nor the order, nor the study, nor a seed take part:
    validation patients are never trained on and have their own privacy account for life, so a
    patient who changed sides when another patient joined, or in the next study, would be spent
    on both accounts.
    The fraction does take part: with a larger one more patients are for validation (all those of
    the smaller one among them), so a hospital keeps one fraction for all its studies.
    """
    # A file name that is not valid UTF-8 reaches Python as surrogates; this restores its bytes.
    digest = hashlib.sha256(_DOMAIN + patient_id.encode("utf-8", "surrogateescape")).digest()
    # 53 bits: every value is exact in a float, and 1.0 cannot come out by rounding.
    return (int.from_bytes(digest[:8]) >> 11) / 2**53 < validation_fraction
