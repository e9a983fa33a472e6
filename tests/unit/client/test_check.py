"""What `intramural-client check` finds, against a health page of the test's own behind real TLS."""

import contextlib
import json
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

from client import check
from client.__main__ import app
from client.approval import APPROVED, begin
from client.approval import approve as approve_policy
from client.data_check import DataLook
from client.finding import Finding, print_findings
from client.keys import make_hospital_key
from common.errors import EgressError, HospitalError, PolicyError
from common.protocol import StudyProtocol, parse_protocol
from common.tasks import USUAL
from server.provision import approve, initialise
from tests.hospital import LIMITS, policy_of
from tests.tasks import TASKS, small

SmallStudy = Callable[..., StudyProtocol]


@contextmanager
def health(home: Path, said: dict[str, Any] | bytes) -> Iterator[int]:
    """A gateway's health page with the coordinator's certificate; the port at which it listens."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not to the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Page)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "tls" / "server.crt", home / "tls" / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_images(folder: Path) -> None:
    """Twelve patients in both classes, and what a study has of them: their sizes."""
    folder.mkdir()
    rows = ["image,label,patient_id"]
    for n in range(24):
        rows.append(f"{n}.png,{'nodule' if n % 2 else 'non-nodule'},patient-{n // 2}")
        Image.new("L", (16, 16), n).save(folder / f"{n}.png")
    (folder / "manifest.csv").write_text("\n".join(rows))


class Package:
    """A hospital's folder as it is after the coordinator's package came, all as it should be."""

    def __init__(self, folder: Path, study: StudyProtocol) -> None:
        self.folder, self.home, self.study = folder / "north", folder / "home", study
        (folder / "protocol.toml").write_text(study.to_toml())
        initialise(self.home, folder / "protocol.toml")
        made = make_hospital_key("north", self.folder)
        approve(self.home, made.request, made.fingerprint)
        for file in (self.home / "packages" / "north").iterdir():
            shutil.copy(file, self.folder / file.name)
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        write_images(self.folder / "data")
        begin(self.state)
        self.approves = True  # whatever stands in its policy
        self.policy: dict[str, Any] = {
            "hospital": "north",
            "data": str(self.folder / "data"),
            "state": str(self.state),
            "socket": str(self.folder / "vault.sock"),
            "approved-studies": [study.digest],
            "max-epsilon": 10.0,
            "limits": LIMITS,
        }
        self.connection: dict[str, Any] = {
            "hospital": "north",
            "coordinator": "127.0.0.1:1",
            "ca": "ca.crt",
            "certificate": "hospital.crt",
            "key": "hospital.key",
            "socket": str(self.folder / "vault.sock"),
            "home": "relay",
        }

    def findings(self) -> dict[str, Finding]:
        (self.folder / "site.toml").write_text(tomli_w.dumps(self.policy))
        with contextlib.suppress(PolicyError, EgressError):
            if self.approves:
                approve_policy(self.folder / "site.toml", None)
        (self.folder / "connection.toml").write_text(tomli_w.dumps(self.connection))
        found = check.findings(self.folder / "site.toml", self.folder / "connection.toml")
        return {finding.what: finding for finding in found}

    def bad(self) -> dict[str, str]:
        return {w: f.said for w, f in self.findings().items() if f.verdict == "bad"}


@pytest.fixture
def package(tmp_path: Path, small_study: SmallStudy) -> Package:
    fields = small_study().model_dump(by_alias=True, exclude_none=True, mode="json")
    fields["coordinator"] = {"names": ["127.0.0.1"], "port": 9443}
    return Package(tmp_path, parse_protocol(tomli_w.dumps(fields)))


def page(**changes: Any) -> dict[str, Any]:
    from importlib.metadata import version

    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {
        "service": "intramural gateway",
        "version": version("intramural"),
        "time": now,
        **changes,
    }


def test_where_all_is_well_nothing_is_bad(package: Package) -> None:
    with health(package.home, page()) as port:
        package.connection["coordinator"] = f"127.0.0.1:{port}"
        found = package.findings()
    assert {f.verdict for w, f in found.items() if not w.startswith("wall")} == {"good"}
    for what in ("site policy", "connection", "package", "study protocol", "ledger", "disk"):
        assert what in found
    assert "validation patients, 10 agreed" in found["data"].said
    assert "processor" in found["device"].said or "GPU" in found["device"].said
    for what in ("key and certificate", "coordinator", "version", "clock"):
        assert what in found
    assert "days left" in found["key and certificate"].said


@pytest.mark.parametrize(("seconds", "side"), [(600, "behind"), (-600, "ahead"), (-10, "ahead")])
def test_a_clock_that_flower_would_refuse_is_named(
    seconds: int, side: str, package: Package
) -> None:
    """R10: Flower itself says no more than "Invalid timestamp"."""
    theirs = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    with health(package.home, page(time=theirs)) as port:
        package.connection["coordinator"] = f"127.0.0.1:{port}"
        said = package.bad()["clock"]
    assert f"{side}" in said
    assert f"{abs(seconds)} s" in said or f"{abs(seconds) - 1} s" in said


def test_another_version_is_named_with_both(package: Package) -> None:
    with health(package.home, page(version="9.9.9")) as port:
        package.connection["coordinator"] = f"127.0.0.1:{port}"
        assert "9.9.9 at the coordinator" in package.bad()["version"]


def test_a_coordinator_that_is_not_ours_is_bad_and_one_that_is_away_is_not(
    package: Package, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "protocol.toml").write_text(package.study.to_toml())
    initialise(other / "home", other / "protocol.toml")
    with health(other / "home", page()) as port:
        package.connection["coordinator"] = f"127.0.0.1:{port}"
        assert "nothing was sent" in package.bad()["coordinator"]
    found = package.findings()
    assert (found["coordinator"].verdict, "does not answer" in found["coordinator"].said) == (
        "look",
        True,
    )


@pytest.mark.parametrize("text", [b"not JSON", b"{}", b'{"time": 1, "version": "x"}'])
def test_a_strange_health_page_is_no_answer(text: bytes, package: Package) -> None:
    with health(package.home, text) as port:
        package.connection["coordinator"] = f"127.0.0.1:{port}"
        assert package.findings()["coordinator"].verdict == "look"


def spoil_study(package: Package) -> None:
    package.policy["approved-studies"] = ["0" * 64]


def spoil_approval(package: Package) -> None:
    package.approves = False


def spoil_policy(package: Package) -> None:
    package.policy["max-epsilonn"] = 1.0


def spoil_ledger(package: Package) -> None:
    (package.state / "ledger.sqlite").unlink()


def spoil_key(package: Package) -> None:
    (package.folder / "hospital.key").unlink()
    (package.folder / "hospital.csr").unlink()
    make_hospital_key("north", package.folder)


def spoil_authority(package: Package) -> None:
    shutil.copy(package.home / "tls" / "server.crt", package.folder / "ca.crt")


def spoil_certificate(package: Package) -> None:
    shutil.copy(package.home / "tls" / "server.crt", package.folder / "hospital.crt")


def spoil_hospital(package: Package) -> None:
    package.connection["hospital"] = "west"


def spoil_socket(package: Package) -> None:
    package.connection["socket"] = str(package.folder / "other.sock")


def spoil_protocol(package: Package) -> None:
    (package.folder / "protocol.toml").unlink()


def spoil_connection(package: Package) -> None:
    package.connection["coordinator"] = "https://127.0.0.1"


def spoil_data(package: Package) -> None:
    (package.folder / "data" / "manifest.csv").write_text("image,label\n")


def spoil_image(package: Package) -> None:
    (package.folder / "data" / "3.png").write_bytes(b"no image")


def spoil_device(package: Package) -> None:
    package.policy["device"] = "cuda"


@pytest.mark.parametrize(
    ("spoil", "what", "said"),
    [
        (spoil_study, "study protocol", "intramural-client approve"),
        (spoil_approval, "approval and egress log", "never approved"),
        (spoil_policy, "site policy", "max-epsilon"),
        (spoil_ledger, "ledger", "ledger"),
        (spoil_key, "key and certificate", "is not the key"),
        (spoil_authority, "key and certificate", "is not from the authority"),
        (spoil_certificate, "key and certificate", "not for 'north'"),
        (spoil_hospital, "package", "'north' and 'west'"),
        (spoil_socket, "package", "same socket"),
        (spoil_protocol, "study protocol", "protocol.toml"),
        (spoil_connection, "connection", "coordinator"),
        (spoil_data, "data", "patient_id"),
        (spoil_image, "data", "3.png"),
        (spoil_device, "device", "no /no/driver"),
    ],
)
def test_what_is_wrong_is_bad_and_said(
    spoil: Callable[[Package], None],
    what: str,
    said: str,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "DRIVER", Path("/no/driver"))
    spoil(package)
    assert said in package.bad()[what]


@pytest.mark.parametrize(("days", "verdict"), [(-1, "bad"), (10, "look"), (60, "good")])
def test_an_expiring_certificate_is_seen_coming(
    days: int, verdict: str, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "days_left", lambda *_: days)
    finding = package.findings()["key and certificate"]
    assert finding.verdict == verdict
    assert str(abs(days)) in finding.said


def test_a_full_disk_is_bad(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "FREE_BYTES", 10**18)
    assert "make room" in package.bad()["disk"]


def test_findings_are_printed_and_one_bad_one_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    fine, odd, wrong = (Finding(v, v, f"it is {v} [x]") for v in ("good", "look", "bad"))
    assert print_findings(iter([fine, odd]))
    assert not print_findings(iter([fine, wrong, odd]))
    assert "it is bad [x]" in capsys.readouterr().out


def test_where_a_log_keeps_it_no_file_of_a_patient_is_named(
    package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    """`start` writes to a terminal or to the journal of the machine; `check` is for eyes."""
    spoil_image(package)
    data = [finding for finding in package.findings().values() if finding.what == "data"]
    assert not print_findings(iter(data))
    assert "3.png" in capsys.readouterr().out
    assert not print_findings(iter(data), kept=True)
    said = capsys.readouterr().out
    assert "3.png" not in said
    assert "intramural-client check" in said


def judged(package: Package, report: Path | None = None) -> dict[str, Finding]:
    package.findings()  # writes its files
    site, connection = package.folder / "site.toml", package.folder / "connection.toml"
    found = check.findings(site, connection, DataLook(report))
    return {finding.what: finding for finding in found}


def test_the_data_are_judged_where_it_is_asked_for_and_no_log_says_why(
    package: Package, tmp_path: Path
) -> None:
    """The package's images are constant: nothing to see, whatever their labels are."""
    assert "data for this study" not in package.findings()
    report = tmp_path / "page.html"
    found = judged(package, report)
    verdict = found["data for this study"]
    assert (verdict.verdict, verdict.in_log) == ("bad", "unfit")
    assert "unfit: 24 images with nothing to see (24 constant" in verdict.said
    assert str(report) in verdict.said
    assert "Unfit" in report.read_text()
    assert "patient-1" not in verdict.said + report.read_text()
    assert found["data"].said == package.findings()["data"].said


def test_data_that_cannot_be_opened_are_unfit_and_the_page_says_so(
    package: Package, tmp_path: Path
) -> None:
    spoil_image(package)
    found = judged(package, tmp_path / "page.html")
    assert found["data"].verdict == "bad"
    assert found["data for this study"].in_log == "unfit"
    assert "3.png" not in (tmp_path / "page.html").read_text()


def test_a_patient_on_both_sides_is_refused_and_counted(package: Package) -> None:
    manifest = package.folder / "data" / "manifest.csv"
    head, *rows = manifest.read_text().splitlines()
    sides = ["validation" if n < 1 else "training" for n in range(len(rows))]
    lines = [f"{row},{side}" for row, side in zip(rows, sides, strict=True)]
    manifest.write_text("\n".join([f"{head},split", *lines]))
    found = judged(package)
    assert "expected all images of a patient on one side" in found["data"].said
    assert "1 patient on both sides of the split" in found["data for this study"].said


def test_a_report_that_cannot_be_written_is_bad(package: Package, tmp_path: Path) -> None:
    found = judged(package, tmp_path / "nowhere" / "page.html")
    assert found["data for this study"].verdict == "bad"
    assert "choose another --data-report" in found["data for this study"].said


def test_the_command_writes_the_page(package: Package, tmp_path: Path) -> None:
    """Exit code 2: the coordinator is away, which is no fault, but constant images are."""
    package.findings()
    report = tmp_path / "page.html"
    words = ["--site", "site.toml", "--connection", "connection.toml", "--data-report"]
    said = CliRunner().invoke(
        app,
        ["check", *(str(package.folder / w) if "." in w else w for w in words), str(report)],
    )
    assert said.exit_code == 2
    assert "bad  data for this study: unfit" in said.stdout
    assert report.stat().st_mode & 0o777 == 0o600


def test_a_canary_is_planted_for_the_tasks_of_the_approved_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = []

    def broken_off(_: Path | None, tasks: list[str]) -> list[Any]:
        planted.append(tasks)
        raise HospitalError("broken off")

    monkeypatch.setattr("client.canary.battery.run_battery", broken_off)
    site, state = tmp_path / "site.toml", tmp_path / "state"
    site.write_text(policy_of(state).to_toml())
    assert not check.planted_canary(site)
    approved = state / APPROVED
    approved.mkdir(parents=True)
    studies = {task: small(task) for task in TASKS}
    for study in studies.values():
        (approved / f"{study.digest}.toml").write_text(study.to_toml())
    site.write_text(policy_of(state, *(studies[t].digest for t in ("survival", "risk"))).to_toml())
    assert not check.planted_canary(site)
    assert planted == [[USUAL], ["risk", "survival"]]
