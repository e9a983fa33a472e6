"""The reviewer pack: one zip from which a data-protection officer can judge what a hospital took part in.

    site.toml, ledger, egress log, approved texts ─> dossier ─┐
    rounds.jsonl (the coordinator's, if given)    ─> quorum  ─┴─> seven sections ─> page, manifest ─> zip

No patient data in it: nothing here opens the patients' data, the exact scores or a kept reply, and no path of
the hospital's is written down. Same books and same time give the same bytes.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from client.pack.dossier import Dossier
from client.pack.egress import NOT_BEGUN, egress_facts, egress_section
from client.pack.markdown import utc
from client.pack.model_card import card_section
from client.pack.page import page
from client.pack.quorum import Quorum, rounds_section
from client.pack.sections import not_covered_section, policy_section, protocol_file, study_section
from client.statement_text import JSON, MARKDOWN, write_statement
from common.errors import RunError
from common.files import sha256

MANIFEST = "MANIFEST.json"
README = "README.txt"
PAGE = "index.html"


def pack_files(dossier: Dossier, quorum: Quorum | None, now: datetime) -> dict[str, bytes]:
    """Name -> content of every file of the pack, in their order; `now` is the pack's time."""
    statement, statement_json = _statement(dossier)
    sections = {
        "1-policy.md": policy_section(dossier),
        "2-study.md": study_section(dossier),
        "3-privacy-statement.md": statement,
        "4-egress.md": egress_section(dossier),
        "5-rounds.md": rounds_section(dossier, quorum),
        "6-model-card.md": card_section(dossier, quorum),
        "7-not-covered.md": not_covered_section(dossier),
    }
    protocols = {protocol_file(p.digest): p.to_toml() for p in dossier.protocols}
    egress = json.dumps(egress_facts(dossier), indent=2, allow_nan=False)
    others = {"3-privacy-statement.json": statement_json, "4-egress.json": egress + "\n"}
    hospital, time = dossier.policy.hospital, now.astimezone(UTC).isoformat(timespec="seconds")
    made = f"Made on {utc(time)} UTC with intramural {version('intramural')}."
    html = page(
        title=f"Reviewer pack of hospital '{hospital}'",
        lead=f"{_about(dossier)} {made} {NO_PATIENT}",
        warnings=_warnings(dossier, quorum),
        sections=[
            # The others bear their number already.
            text.replace("# Privacy", "# 3. Privacy", 1) if text is statement else text
            for text in sections.values()
        ],
        texts=protocols.items(),
        footer=f"Research use; not a medical device. {MANIFEST} has the SHA-256 of each file of the pack.",
    )
    named = {**sections, **protocols, **others}
    texts = {
        README: _readme(dossier, quorum, made, list(named)),
        PAGE: html,
        **dict(sorted(named.items())),
    }
    files = {name: text.encode() for name, text in texts.items()}
    manifest = {
        "hospital": hospital,
        "time": time,
        "software": f"intramural {version('intramural')}",
        "study": dossier.only,
        "files": {n: {"sha256": sha256(data), "bytes": len(data)} for n, data in files.items()},
    }
    return files | {MANIFEST: (json.dumps(manifest, indent=2) + "\n").encode()}


def zipped(files: Mapping[str, bytes], now: datetime) -> bytes:
    """`files` as a zip in their order, all of the time `now` and readable by their owner alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, now.astimezone(UTC).timetuple()[:6])
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3  # Unix, for the mode
            entry.external_attr = 0o100600 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def write_new(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which must not exist yet, with mode 0600; RunError otherwise."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise RunError(
            f"expected no file {path} yet and found one; a pack is never written over: move it away, or "
            f"choose another --out"
        ) from error
    except OSError as error:
        raise RunError(
            f"cannot make the pack {path}: {error.strerror}; choose another --out"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise RunError(f"cannot write the pack {path}: {error.strerror}; make room") from error


NO_PATIENT = (
    "It holds no patient data: no image, no record, no patient's name or number, no exact count or "
    "score, no file name."
)


def _statement(dossier: Dossier) -> tuple[str, str]:
    """The privacy statement as `report` writes it, in both forms."""
    with tempfile.TemporaryDirectory() as folder:
        write_statement(Path(folder), [dossier.statement] if dossier.statement else [])
        markdown, as_json = (
            (Path(folder) / name).read_text(encoding="utf-8") for name in (MARKDOWN, JSON)
        )
    return markdown, as_json


def _about(dossier: Dossier) -> str:
    if dossier.only is not None:
        return f"About the study {dossier.name_of(dossier.only)}."
    return "About every study of this hospital."


def _warnings(dossier: Dossier, quorum: Quorum | None) -> list[str]:
    """What has to be known before anything else is read."""
    said = []
    if quorum is not None and quorum.disagreements:
        said.append(
            f"DISAGREEMENT between the coordinator's record and this hospital's ledger in "
            f"{len(quorum.disagreements)} rounds: see section 5."
        )
    if dossier.verified is None:
        said.append(NOT_BEGUN.strip())
    studies = dossier.statement.studies if dossier.statement is not None else ()
    if dossier.policy.rehearsal or any(study.rehearsal for study in studies):
        said.append("A REHEARSAL: one person held the data of all hospitals.")
    if any(study.seeded for study in studies):
        said.append("TEST MODE: the noise came from a known seed, so nothing here is private.")
    if not all(study.private for study in studies):
        said.append(
            "NO DIFFERENTIAL PRIVACY in a study of this pack: treat its model as patient data."
        )
    return said


WHAT = {
    "1-policy.md": "what this hospital permits",
    "2-study.md": "the approved studies in plain words",
    "3-privacy-statement.md": "what ran and what is promised, to be signed",
    "4-egress.md": "what left the hospital",
    "5-rounds.md": "who answered in which round",
    "6-model-card.md": "what the model is and is not for",
    "7-not-covered.md": "what no guarantee covers",
}


def _other(name: str) -> str:
    return "all settings of a study" if name.endswith(".toml") else "the same facts for machines"


def _readme(dossier: Dossier, quorum: Quorum | None, made: str, names: list[str]) -> str:
    warnings = "".join(f"!! {text}\n" for text in _warnings(dossier, quorum))
    listed = "".join(f"  {name:<28} {WHAT.get(name) or _other(name)}\n" for name in names)
    return (
        f"Reviewer pack of hospital '{dossier.policy.hospital}'\n"
        f"{made} {_about(dossier)}\n"
        f"{NO_PATIENT}\n\n{warnings}"
        f"Read {PAGE} in any browser, or on paper: it has the whole story in order.\nThe same in parts:\n\n"
        f"{listed}\n"
        f"{MANIFEST} has the SHA-256 of each file. To compare: sha256sum *\n"
        f"Made by the hospital from its own books; `intramural-client verify` checks them again.\n"
    )
