"""[images.ct]: what a study may say of CT patches, and that a study without them is as it was."""

from importlib.resources import files

import pytest

from common.errors import ProtocolError
from common.protocol import parse_protocol
from common.tasks.nodule_classification.study import CtPatches, NoduleStudy
from tests.studies import nodule_study

EXAMPLE = (files("common") / "examples" / "lung-nodules.toml").read_text()
TABLE = "\n[images.ct]\nsize-mm = 32.0\n"


def study(table: str, channels: int = 1) -> NoduleStudy:
    text = EXAMPLE.replace("channels = 1", f"channels = {channels}", 1)
    return nodule_study(text + table)


def test_it_is_part_of_the_study() -> None:
    plain, with_ct = study(""), study(TABLE)
    assert plain.images.ct is None
    assert with_ct.images.ct == CtPatches(size_mm=32.0, hu_low=-1000, hu_high=400, slices=1)
    digests = {
        study(table).digest
        for table in ("", TABLE, TABLE + "hu-low = -900.0\n", TABLE + "hu-high = 500.0\n")
    }
    digests.add(study(TABLE + "slices = 3\nslice-distance-mm = 2.5\n", 3).digest)
    assert len(digests) == 5
    assert parse_protocol(with_ct.to_toml()) == with_ct


def test_a_study_without_it_has_the_digest_that_it_had() -> None:
    """Computed before there was [images.ct]: hospitals have approved such digests."""
    text = """
study = "a"
rounds = 1
images = {classes = ["no", "yes"], size = 32}
training = {steps-per-round = 1, learning-rate = 0.1, sampling-rate = 0.1}
participation = {quorum = 1}
hospitals = [{name = "north", nominal-patients = 100}]
"""
    digest = "d9264070daa4eb36891842c91bfd56d1209671a68d0eae4772d5b59b1a9efb7c"
    assert parse_protocol(text).digest == digest


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hu-low = 400.0", "images.ct.hu-high is 400 but must be above hu-low, 400"),
        ("slices = 3", "images.ct.slice-distance-mm is for slices = 3"),
        ("slice-distance-mm = 2.0", "images.ct.slice-distance-mm is for slices = 3"),
        ("slices = 3\nslice-distance-mm = 2.0", "images.ct.slices is 3 but images.channels is 1"),
        ("slices = 2", "images.ct.slices"),
        ("hu-low = -2000.0", "images.ct.hu-low"),
        ("hu-hi = 300.0", "did you mean 'hu-high'?"),
    ],
)
def test_refused_in_one_sentence(line: str, words: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        study(f"{TABLE}{line}\n")
    assert words in str(caught.value)
