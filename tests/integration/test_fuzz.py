"""Fuzzed messages and files: no crash, no hang over 2 s, no memory over 500 MB, every refusal typed.

What is thrown at what: tests/fuzz_targets.py, tests/fuzz_hospital.py. `make test` runs one case in ten,
`make test-crash` all of them, each time under a new seed; a failure names the command that repeats it.
"""

import io
import os
import re
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from client.approval import begin
from client.connection import load_connection
from client.data.image_folder import open_cohort
from client.data.pixels import read_pixels
from client.egress_log import EgressLog
from client.evidence import kept_scores, scores_file
from client.policy import load_policy
from common.errors import (
    ConnectionFileError,
    DataError,
    EgressError,
    MessageError,
    PolicyError,
    ProtocolError,
)
from common.judging.binary import Binary
from common.messages import MAGIC, decode
from common.protocol import parse_protocol
from common.tasks.nodule_classification.study import Images
from tests.fuzz_targets import STUDY
from tests.fuzzing import MOST_SECONDS, Report, fuzz
from tests.hospital import policy_of

CASES = {
    "message": 2500,
    "records": 1200,
    "protocol": 1500,
    "policy": 800,
    "connection": 800,
    "weights": 1000,
    "manifest": 1200,
    "image": 2000,
    "dicom": 1000,
    "books": 1000,
    "vault": 1200,
}
SHAPE = Images(classes=("non-nodule", "nodule"), size=16)


def held(reports: Sequence[Report]) -> None:
    """Print what was seen; every failure is one."""
    for report in reports:
        print(report)
    failures = [failure for report in reports for failure in report.failures]
    wrong = "\n".join(failures[:20])
    hint = "python -m tests.fuzzing <target> <seed> <case> <case + 1>"
    assert not failures, f"{len(failures)} failures; to repeat one: {hint}\n{wrong}"
    assert all(report.codes.keys() - {"accepted"} for report in reports), "nothing was refused"


@pytest.mark.slow
@pytest.mark.parametrize("target", CASES)
def test_one_case_in_ten(target: str) -> None:
    held([fuzz(target, secrets.randbelow(1 << 32), 0, CASES[target] // 10)])


@pytest.mark.crash
@pytest.mark.timeout(1800)
def test_ten_thousand_cases() -> None:
    seed = secrets.randbelow(1 << 32)
    reports = [fuzz(target, seed, 0, cases) for target, cases in CASES.items()]
    held(reports)
    assert sum(report.cases for report in reports) >= 10_000
    assert 2 * sum(report.beyond for report in reports) > sum(report.cases for report in reports)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "words"),
    [
        ("error", "ValueError: planted"),
        ("sleep", "took 3"),
        ("memory", "took 6"),
        ("death", "the worker died"),
    ],
)
def test_a_planted_bug_is_found_and_is_found_again(bug: str, words: str) -> None:
    seed, last = secrets.randbelow(1 << 32), 12 if bug == "error" else 0
    report = fuzz(f"planted-{bug}", seed, 0, last)
    while not report.failures:  # not every case gets as far as the bug
        report, last = fuzz(f"planted-{bug}", seed, last, last + 1), last + 1
    print(report)
    target, said_seed, number = report.failures[0].partition(":")[0].split()
    again = fuzz(target, int(said_seed), int(number), int(number) + 1)
    assert again.failures
    assert all(words in failure for failure in report.failures + again.failures)


# --- what it found, each with the least that shows it


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0))


def of_many_scans(_: Path) -> bytes:
    """A progressive JPEG in which one scan is repeated: 23 kB, and hours where it is a large one."""
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "JPEG", progressive=True)
    whole, start = buffer.getvalue(), buffer.getvalue().rfind(b"\xff\xda")
    return whole[:-2] + whole[start:-2] * 500 + b"\xff\xd9"


def of_many_strips(_: Path) -> bytes:
    """A TIFF of 16 x 1,000,000 pixels whose million strips are one and the same."""
    n, tags = 1_000_000, [(256, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(277, 3, 1, 1), (278, 4, 1, 1), (257, 4, 1, n)]
    after = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags = sorted([*tags, (273, 3, n, after), (279, 3, n, after + 2 * n)])
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    body = struct.pack("<H", 8) * n + struct.pack("<H", 16) * n
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table + bytes(4) + body


def of_many_parts(_: Path) -> bytes:
    return PNG + chunk(b"prVt", b"") * 200_000


def of_endless_text(path: Path) -> bytes:
    """A text of two gigabytes, of which the disk holds nothing."""
    with path.open("wb") as file:
        file.truncate(3 << 30)
    return PNG + struct.pack(">I", 0x7FFFFFF0) + b"tEXt"


def of_many_pixels(_: Path) -> bytes:
    rows = zlib.compress(bytes((8000 * 3 + 1) * 8000), 1)
    head = struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bomb", "words"),
    [
        (of_many_scans, r"a JPEG of 50\d scans"),
        (of_many_strips, "before the first pixel"),
        (of_many_parts, "100000 reads"),
        (of_endless_text, "one of 3221 MB"),
        (of_many_pixels, "8000 x 8000"),
    ],
)
def test_a_bomb_is_refused_by_what_it_claims(
    tmp_path: Path, bomb: Callable[[Path], bytes], words: str
) -> None:
    path = tmp_path / "image.png"
    data = bomb(path)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
    with pytest.raises(DataError, match=words):
        read_pixels(path, SHAPE, "row 1")


def test_a_manifest_is_bounded_and_says_an_image_once(tmp_path: Path) -> None:
    """Three gigabytes on one line, of which the disk holds nothing; one image in a million rows."""
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    manifest = tmp_path / "manifest.csv"
    with manifest.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match="at most 64 MB, found 3072"):
        open_cohort(tmp_path, SHAPE)
    rows = "a.png,nodule,P1\n" * 1_000_000
    manifest.write_text("image,label,patient_id\n" + rows)
    with pytest.raises(DataError, match=r"row 3: expected every image once"):
        open_cohort(tmp_path, SHAPE)


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_relay_dials_a_port_that_there_is(tmp_path: Path, port: str) -> None:
    names = "".join(f'{name} = "a"\n' for name in ("ca", "certificate", "key", "socket", "home"))
    path = tmp_path / "connection.toml"
    path.write_text(f'hospital = "north"\ncoordinator = "a.example:{port}"\n{names}')
    with pytest.raises(ConnectionFileError, match="from 1 to 65535"):
        load_connection(path)


def test_settings_that_are_nested_too_deep_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "connection.toml"
    path.write_text("a = " + "[" * 5000)
    with pytest.raises(ConnectionFileError, match="cannot read"):
        load_connection(path)


def tensors(header: str, values: int) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + bytes(values)


ENTRY = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    ("fields", "section"),
    [
        ('"names":["a"]', tensors(f"{{{ENTRY},{ENTRY}}}", 8)),
        (
            '"names":["a"]',
            tensors("{" + ENTRY.replace("F32", "F8_E4M3").replace("8]", "2]") + "}", 2),
        ),
        ('"names":["a"]', tensors(f"{{{ENTRY}}}" + " " * (2 << 20), 8)),
        ('"names":[],"round":2', save({})),
    ],
    ids=["an array twice", "a dtype of its own", "a header of two megabytes", "a round twice"],
)
def test_a_frame_says_one_thing(fields: str, section: bytes) -> None:
    header = f'{{"kind":"train-request","protocol":"","round":1,{fields}}}'.encode()
    with pytest.raises(MessageError):
        decode(MAGIC + struct.pack("<I", len(header)) + header + section)


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", half, lambda whole: whole.replace(b"patient", b"patienz"), lambda _: bytes(99)],
)
def test_damaged_scores_are_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = scores_file(tmp_path, "a" * 64, 1)
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, score=np.full(9, 0.5), label=np.zeros(9), patient=np.arange(9))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="cannot be read"):
        kept_scores(tmp_path, "a" * 64, 1, Binary())


def test_scores_that_are_a_pipe_are_not_waited_for(tmp_path: Path) -> None:
    path = scores_file(tmp_path, "a" * 64, 1)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(DataError, match="no scores"):
        kept_scores(tmp_path, "a" * 64, 1, Binary())


@pytest.mark.parametrize("number", ["0x1" + "0" * 300, "0x1" + "0" * 5000])
def test_a_whole_number_beyond_all_floats_or_beyond_print_is_refused(
    tmp_path: Path, number: str
) -> None:
    with pytest.raises(ProtocolError, match="nominal-patients"):
        parse_protocol(STUDY.replace("nominal-patients = 10", f"nominal-patients = {number}"))
    path = tmp_path / "site.toml"
    text = policy_of(tmp_path).to_toml()
    path.write_text(re.sub("max-rounds = .*", f"max-rounds = {number}", text))
    with pytest.raises(PolicyError, match="max-rounds"):
        load_policy(path)


@pytest.mark.parametrize("part", ["a", "a-b ", '"a"', '"\\""', "'a' ", "é"])
def test_a_key_of_many_parts_is_refused_in_no_time(part: str) -> None:
    """From the coordinator, before any approval: 250 kB would take minutes and more memory than there is."""
    key = ".".join([part] * (200_000 // (len(part.encode()) + 1)))
    for text in (f"{key} = 1", f"[{key}]", f"a = {{ {key} = 1 }}"):
        with pytest.raises(ProtocolError, match="more than 16 parts"):
            parse_protocol(text)


@pytest.mark.parametrize("text", ['"\\' * 100_000, "a" * 200_000, "a.a " * 50_000, "'a\n" * 60_000])
def test_what_looks_for_such_keys_takes_no_time_itself(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ProtocolError):
        parse_protocol(text)
    assert time.process_time() - started < MOST_SECONDS


@pytest.mark.parametrize("name", ["egress.head", "egress.jsonl"])
def test_a_log_that_is_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    begin(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name, 0o600)
    with pytest.raises(EgressError):
        EgressLog.read(tmp_path)
