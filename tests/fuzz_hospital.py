"""What the fuzz tests throw damage at inside a hospital: its images, its books, and the whole vault.

How a target works: tests/fuzz_targets.py. Only `vault` loads torch.
"""

import csv
import io
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import numpy as np
from PIL import Image, UnidentifiedImageError

from client.chain import Entry
from client.data import SetAside
from client.data.findings import FINDINGS
from client.data.image_folder import open_cohort
from client.data.pixels import read_pixels
from client.egress_log import EgressLog
from client.evidence import kept_scores, scores_file
from client.ledger import Ledger, Spend
from client.policy import SitePolicy
from client.verification import verify
from common import messages
from common.errors import DataError, InternalError, IntramuralError
from common.judging.binary import Binary
from common.messages import EvaluateRequest, HelloRequest, Refusal, TrainRequest
from common.protocol import StudyProtocol, parse_protocol
from common.tasks.nodule_classification.study import Images
from tests.fuzz_mutators import WORDS, bent_frame, bent_image, flipped, images
from tests.fuzz_targets import DIGEST, STUDY, Case, Outcome, opens, refused
from tests.hospital import approved, policy_of

SHAPE = Images(classes=("non-nodule", "nodule"), size=16)


class _Manifest:
    """A folder of six good images, and of names that lead elsewhere or to what blocks or never ends."""

    LINKS = (("out", "/etc/passwd"), ("zero", "/dev/zero"), ("loop", "loop.png"), ("in", "0.png"))
    PLACES = (
        *(f"{name}.png" for name in ("pipe", "folder", "out", "zero", "loop", "in")),
        *("/dev/zero", "..", ".", "", "../hospital/0.png", "./0.png", "/proc/self/mem", " 0.png "),
        *("a/" * 3000, "n" * 300, "0.png\0"),
    )
    ENCODINGS = ("utf-8",) * 8 + ("utf-8-sig", "utf-16", "latin-1")

    def __init__(self, folder: Path) -> None:
        self.data, self.path = folder / "hospital", folder / "hospital/manifest.csv"
        self.data.mkdir()
        self.good = [["image", "label", "patient_id", "split"]]
        for number in range(6):
            Image.new("L", (16, 16), number).save(self.data / f"{number}.png")
            side = "validation" if number > 3 else "training"
            row = [f"{number}.png", SHAPE.classes[number % 2], f"P{number // 2}", side]
            self.good.append(row)
        os.mkfifo(self.data / "pipe.png")
        (self.data / "folder.png").mkdir()
        for name, aim in self.LINKS:
            (self.data / f"{name}.png").symlink_to(aim)

    def __call__(self, chosen: Random) -> Outcome:
        kind = chosen.randrange(10)
        text = self._text(kind, chosen)
        if kind == 8:
            kinds = (lambda: os.mkfifo(self.path), self.path.mkdir, self._endless)
            chosen.choice(kinds)()
        else:
            self.path.write_bytes(flipped(text, chosen) if kind == 9 else text)
        code = refused(self._read)
        self.path.rmdir() if self.path.is_dir() else self.path.unlink()
        return code, kind != 8 and text.startswith(b"image,label")

    def _text(self, kind: int, chosen: Random) -> bytes:
        rows, which = [list(row) for row in self.good], chosen.randrange(1, 7)
        if kind <= 2:
            rows[which][0] = chosen.choice(self.PLACES)
        elif kind <= 4:
            word = chosen.choice((*map(str, WORDS), "x" * 200_000, "P1\0", "P0 ", "\ufeff", "a\nb"))
            rows[chosen.randrange(7)][chosen.randrange(4)] = word
        elif kind == 5:
            rows += [rows[which]] * chosen.choice((1, 3000))
        elif kind == 6:
            rows = [row + [f"c{n}" for n in range(chosen.choice((1, 5000)))] for row in rows]
        elif kind == 7:
            rows = [[row[n] for n in chosen.sample(range(4), 4)] for row in rows]
        text = io.StringIO(newline="")
        end = chosen.choice(("\n", "\r\n", "\r"))
        csv.writer(text, delimiter=chosen.choice(",,,,;\t"), lineterminator=end).writerows(rows)
        return text.getvalue().encode(chosen.choice(self.ENCODINGS), "replace")

    def _endless(self) -> None:
        self.path.symlink_to("/dev/zero")

    def _read(self) -> None:
        cohort = open_cohort(self.data, SHAPE)
        assert len(cohort.training) >= 1
        assert len(cohort.training.pixels) + len(cohort.validation.pixels) <= 7


def _image(folder: Path) -> Case:
    files = images()
    path = folder / "image.png"
    forms = [{"channels": c, "fit": fit} for c in (1, 3) for fit in ("crop", "resize")]
    kinds = [SHAPE.model_copy(update=form) for form in forms]

    def case(chosen: Random) -> Outcome:
        path.write_bytes(bent_image(chosen.choice(files), chosen))
        shape, beyond = chosen.choice(kinds), True

        def read() -> None:
            nonlocal beyond
            try:
                pixels = read_pixels(path, shape, "row 1")
            except IntramuralError as error:
                beyond = not isinstance(error.__cause__, UnidentifiedImageError)
                raise
            assert pixels.shape == (16, 16, shape.channels)
            assert pixels.dtype in (np.uint8, np.uint16)

        return refused(read), beyond

    return case


def _dicom(folder: Path) -> Case:
    """A folder of CT series in which one file, or the list of findings, is damaged: the others load."""
    from tests.unit.client.data.making_dicom import IMAGES, hospital

    root = hospital(folder / "ct")
    files = sorted(file for file in root.rglob("*") if file.is_file())
    whole = {file: file.read_bytes() for file in files}
    findings = root / FINDINGS

    def case(chosen: Random) -> Outcome:
        path = findings if chosen.randrange(6) == 0 else chosen.choice(files)
        data = whole[path]
        # Mostly in the header, where a few bytes decide about all that follow.
        bent = flipped(data, chosen)
        if path != findings and chosen.randrange(3):
            bent = flipped(data[:600], chosen) + data[600:]
        path.write_bytes(bent)
        apart: list[SetAside] = []

        def read() -> None:
            cohort = open_cohort(root, IMAGES, set_aside=apart)
            assert len(cohort.training) >= 1
            assert len(cohort.training.labels) + len(cohort.validation.labels) <= len(files)

        code = refused(read)
        path.write_bytes(whole[path])
        return ("set aside" if apart and code == "accepted" else code), bent[128:132] == b"DICM"

    return case


def _books(folder: Path) -> Case:
    """Ledger, egress log, policy and kept scores of a hospital that has answered three rounds."""
    whole, state = folder / "whole", folder / "state"
    policy = approved(policy_of(state, DIGEST))
    (folder / "site.toml").write_text(policy.to_toml())
    log = EgressLog(state)
    for number in (1, 2, 3):
        log.approval_of(policy.digest)
        with Ledger.open(state) as ledger:
            terms = {"validation-fraction": 0.2}
            request, reply = f"{number:064x}", b"reply %d" % number
            reserved = ledger.reserve(
                request, DIGEST, number, {"training": Spend(1.5, 0.5, 2)}, terms
            )
            ledger.seal(request, reply, log.head)
            log.write(reply, "train-reply", None, reserved.head)
    scores = scores_file(state, DIGEST, 1)
    scores.parent.mkdir(parents=True)
    np.savez_compressed(scores, score=np.full(9, 0.5), label=np.zeros(9, int), patient=np.arange(9))
    shutil.copytree(state, whole)
    head = verify(folder / "site.toml").ledger_head
    names = (
        "ledger.sqlite",
        "ledger.head",
        "egress.jsonl",
        "egress.head",
        str(scores.relative_to(state)),
    )

    def case(chosen: Random) -> Outcome:
        shutil.rmtree(state)
        shutil.copytree(whole, state)
        name = chosen.choice(names)
        path, kind = state / name, chosen.randrange(12)
        if kind == 0:
            path.unlink()
            kinds = (
                path.mkdir,
                lambda: path.write_bytes(b""),
                lambda: path.symlink_to("/dev/zero"),
            )
            chosen.choice((*kinds, lambda: os.mkfifo(path, 0o600)))()
        elif kind <= 2 and name == "ledger.sqlite":
            _edit(path, chosen)
        elif kind <= 2 and name == "egress.jsonl":
            _edit_log(path, chosen)
        else:
            path.write_bytes(flipped(path.read_bytes(), chosen))

        def look() -> None:
            kept_scores(state, DIGEST, 1, Binary())
            assert verify(folder / "site.toml").ledger_head == head

        return refused(look), kind > 0

    return case


def _edit(path: Path, chosen: Random) -> None:
    """Somebody works on the ledger with SQLite's own tools."""
    with closing(sqlite3.connect(path)) as ledger, ledger, suppress(sqlite3.Error):
        if chosen.random() < 0.9:
            for trigger in ("entry_update", "entry_delete", "entry_insert"):
                ledger.execute(f"DROP TRIGGER {trigger}")
        column = chosen.choice(("time", "kind", "body", "previous", "hash"))
        ledger.execute(
            f"UPDATE entry SET {column} = ? WHERE number = 2", (str(chosen.choice(WORDS)),)
        )
        ledger.execute("UPDATE reply SET bytes = ?", (chosen.randbytes(9),))


def _edit_log(path: Path, chosen: Random) -> None:
    """A line of the egress log is exchanged for one that has its right place and hash, and another body."""
    lines = path.read_bytes().splitlines()
    at = chosen.randrange(1, len(lines))
    before = json.loads(lines[at - 1])
    body = {str(chosen.choice(WORDS)): "a", **json.loads(lines[at])["body"]}
    new = Entry.after(at, before["hash"], chosen.choice(("released", "approved", "x")), body)
    lines[at] = json.dumps(asdict(new), sort_keys=True, separators=(",", ":")).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


def _vault(folder: Path) -> Case:
    """The whole way of a request. The data step itself refuses, so what reaches it opened no patient."""
    from client import vault as vault_module
    from client.vault import Vault
    from common.model_spec import model_of

    protocol = parse_protocol(STUDY)
    state, whole, patients = folder / "state", folder / "whole", folder / "patients"
    patients.mkdir()
    (patients / "manifest.csv").write_text("image,label,patient_id\n")
    policy = approved(policy_of(state, DIGEST, data=patients))
    arrays = {name: value.numpy() for name, value in model_of(protocol).state_dict().items()}
    frames = [messages.encode(HelloRequest())] + [
        messages.encode(kind(protocol=STUDY, round=number, arrays=arrays))
        for kind, number in ((TrainRequest, 1), (TrainRequest, 2), (EvaluateRequest, 4))
    ]
    asked: list[Path] = []
    touched: list[str] = []

    def data_step(_: StudyProtocol, policy: SitePolicy, **__: object) -> NoReturn:
        asked.append(policy.data)
        raise DataError("the fuzz test ends here")

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and str(patients) in str(arguments[0]):
            touched.append(str(arguments[0]))

    setattr(vault_module, "open_cohort", data_step)  # noqa: B010  (it is not its own name)
    sys.addaudithook(heard)
    shutil.copytree(state, whole)
    vault = Vault(policy)
    vault.handle(frames[1])  # the first price of a study takes a second, and is kept

    def case(chosen: Random) -> Outcome:
        nonlocal vault
        if asked:
            shutil.rmtree(state)
            shutil.copytree(whole, state)
            asked.clear()
            vault = Vault(policy)
        frame = bent_frame(chosen.choice(frames), chosen)
        before = (state / "ledger.head").read_bytes()
        reply = messages.decode(vault.handle(frame))
        assert not touched
        if not isinstance(reply, Refusal):
            assert isinstance(reply, messages.HelloReply)
            return "accepted", True
        assert reply.code != InternalError.code, "an internal error is no refusal"
        assert bool(asked) == (reply.code == "E-DATA")
        assert asked or (state / "ledger.head").read_bytes() == before
        return reply.code, opens(frame)

    return case


HOSPITAL_TARGETS: dict[str, Callable[[Path], Case]] = {
    "manifest": _Manifest,
    "image": _image,
    "dicom": _dicom,
    "books": _books,
    "vault": _vault,
}
