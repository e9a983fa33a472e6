"""[inclusion]: which CTs a study is meant for, and that a study without it is as it was."""

from importlib.resources import files

import pytest

from common.errors import ProtocolError
from common.protocol import parse_protocol
from common.tasks.nodule_classification.study import Inclusion, NoduleStudy
from tests.studies import nodule_study

EXAMPLE = (files("common") / "examples" / "lung-nodules.toml").read_text()


def study(*lines: str) -> NoduleStudy:
    table = "\n[inclusion]\n" + "\n".join(lines) if lines else ""
    return nodule_study(EXAMPLE + table)


def test_every_value_is_part_of_the_study() -> None:
    lines = (
        "max-slice-thickness-mm = 2.5",
        "max-pixel-spacing-mm = 0.8",
        "kvp = [100.0, 140.0]",
        "from-year = 2010",
        "least-patients = 20",
    )
    whole = study(*lines)
    assert whole.inclusion == Inclusion(
        max_slice_thickness_mm=2.5,
        max_pixel_spacing_mm=0.8,
        kvp=(100.0, 140.0),
        from_year=2010,
        least_patients=20,
    )
    assert parse_protocol(whole.to_toml()) == whole
    digests = {study(line).digest for line in lines} | {whole.digest, study().digest}
    assert len(digests) == 7


def test_a_study_without_it_has_the_digest_that_it_had() -> None:
    """Computed before there was [inclusion]: hospitals have approved such digests."""
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
    ("line", "said"),
    [
        ("", "states nothing"),
        ("max-slice-thicknes-mm = 2.5", "did you mean 'max-slice-thickness-mm'?"),
        ("max-slice-thickness-mm = 0.0", "inclusion.max-slice-thickness-mm"),
        ("kvp = [140.0, 100.0]", "from 140 to 100"),
        ("kvp = [100.0]", "inclusion.kvp"),
        ("from-year = 19", "inclusion.from-year"),
        ("least-patients = 0", "inclusion.least-patients"),
    ],
)
def test_what_states_nothing_is_refused(line: str, said: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        study(line)
    assert said in str(caught.value)
