"""The reviewer pack: whole, true to the books, and without a patient, a path or a count in it."""

import hashlib
import io
import json
import re
import subprocess
import tomllib
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.approval import approve, begin
from client.egress_log import EgressLog
from client.pack import dossier
from client.pack.archive import MANIFEST, PAGE, README, pack_files, write_new, zipped
from client.pack.dossier import gather
from client.pack.egress import KINDS
from client.pack.markdown import plain, table
from client.pack.quorum import ClosedRound, compare, read_rounds
from client.pack.sections import worst_case
from client.policy import Limits, SitePolicy, load_policy
from client.verification import Verified, verify
from common import messages
from common.documents import kebab
from common.errors import IntramuralError, PolicyError, RunError
from common.protocol import StudyProtocol, parse_protocol
from common.tasks import USUAL, task_of
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.hospitals import settle
from simulation.live import Silent
from simulation.rehearsal import Rehearsal
from tests.hospital import policy_of
from tests.packing import (
    NOW,
    MakeStudy,
    answered,
    pack,
    packed,
    recorded,
    two_rounds,
    written,
)
from tests.phantom_patients import cohort
from tests.phantom_patients import scores as phantom_scores
from tests.tasks import TASKS, small

pytestmark = pytest.mark.slow  # seconds together

CANARY = "SECRET^PATIENT"
OTHERS = "0" * 63 + "1"


@pytest.fixture
def asked(office: Any, small_study: MakeStudy) -> NoduleStudy:
    """A study of which the office answered two rounds."""
    return two_rounds(office, small_study())


def test_every_file_is_there_and_has_its_digest(office: Any, asked: NoduleStudy) -> None:
    files = packed(gather(office.site))
    assert list(files) == [
        README,
        PAGE,
        "1-policy.md",
        f"2-protocol-{asked.digest[:12]}.toml",
        "2-study.md",
        "3-privacy-statement.json",
        "3-privacy-statement.md",
        "4-egress.json",
        "4-egress.md",
        "5-rounds.md",
        "6-model-card.md",
        "7-not-covered.md",
        MANIFEST,
    ]
    manifest = json.loads(files[MANIFEST])
    assert (manifest["hospital"], manifest["time"]) == ("north", "2026-03-14T15:09:26+00:00")
    assert manifest["software"].startswith("intramural ")
    assert manifest["files"].keys() == files.keys() - {MANIFEST}
    for name, facts in manifest["files"].items():
        data = files[name].encode()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}, name
        assert name in files[README] or name in (README, PAGE)


@pytest.mark.usefixtures("asked")
def test_the_same_books_and_time_give_the_same_bytes(office: Any) -> None:
    one, two = (zipped(pack_files(gather(office.site), None, NOW), NOW) for _ in range(2))
    assert one == two
    later = NOW.replace(minute=10)
    assert zipped(pack_files(gather(office.site), None, later), later) != one
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        for entry in archive.infolist():
            assert entry.date_time == (2026, 3, 14, 15, 9, 26)
            assert entry.external_attr >> 16 == 0o100600


def test_the_command_writes_a_private_file_and_never_over_one(
    office: Any, asked: NoduleStudy
) -> None:
    out = office.folder / "pack.zip"
    done = pack(office, "--out", str(out), "--study", asked.study)
    assert done.exit_code == 0, done.output
    assert out.stat().st_mode & 0o777 == 0o600
    before = out.read_bytes()
    again = pack(office, "--out", str(out))
    assert again.exit_code == 2
    assert "E-RUN" in again.output
    assert out.read_bytes() == before
    with pytest.raises(RunError, match="cannot make the pack"):
        write_new(office.folder / "absent" / "pack.zip", b"")


def test_every_key_of_the_policy_is_in_the_table_and_no_path_is(office: Any) -> None:
    office.write_policy(
        socket="/run/intramural/vault.sock",
        relay_user="the-relays-user",
        patient_id_pattern=f"(?P<patient>{re.escape(CANARY)}.*)_",
        rehearsal=True,
        noise_seed=271828,
    )
    text = packed(gather(office.site))["1-policy.md"]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| .* \| (.*) \|$", text, re.MULTILINE))
    names = [*SitePolicy.model_fields, *Limits.model_fields]
    assert rows.keys() == {kebab(name) for name in names} - {"limits"}
    private = ("data", "state", "socket", "relay-user", "patient-id-pattern", "noise-seed")
    assert {rows[key] for key in private} == {"set"}
    for word in ("/", "the-relays-user", "SECRET", "271828"):
        assert word not in "".join(rows.values()), word
    assert hashlib.sha256(office.site.read_bytes()).hexdigest() in text
    approvals = [e for e in EgressLog.read(office.state) if e.kind == "approved"]
    assert approvals[-1].time[:19].replace("T", " ") in text


def test_the_study_is_the_approved_one_in_words_and_in_full(
    office: Any, asked: NoduleStudy
) -> None:
    files = packed(gather(office.site))
    text = files["2-study.md"]
    assert f"| digest | `{asked.digest}` |" in text
    assert "| digest computed again from the kept text | the same |" in text
    assert "| list in the site policy | holds it |" in text
    assert "| the site policy as it stands | permits it |" in text
    assert "### What it costs, at most" in text
    assert "noise multiplier 1.5." in text  # what this study began with here, not what is asked
    copy = files[f"2-protocol-{asked.digest[:12]}.toml"]
    assert parse_protocol(copy).digest == asked.digest


def test_a_kept_text_that_was_changed_is_no_approved_study(office: Any, asked: NoduleStudy) -> None:
    kept = office.state / "approved" / f"{asked.digest}.toml"
    whole = kept.read_text()
    kept.write_text(whole + f"# {CANARY}\n")  # a comment is no setting, and not copied
    assert CANARY not in "".join(packed(gather(office.site)).values())
    kept.write_text(whole.replace("rounds = 3", "rounds = 4"))
    with pytest.raises(PolicyError, match="to have the digest in its name"):
        gather(office.site)


def test_a_study_that_the_policy_permits_no_more_says_so(office: Any, asked: NoduleStudy) -> None:
    tightened = load_policy(office.site).limits.model_copy(update={"max_rounds": 2})
    office.write_policy(approved_studies=(asked.digest, OTHERS), limits=tightened)
    text = packed(gather(office.site))["2-study.md"]
    assert "refuses it: study 'small' goes beyond the limits of the site policy" in text
    assert "rounds: asked 3, allowed 2" in text
    assert "The text of this study was not kept here" in text  # of the other one
    assert "| approval in the egress log | **none** |" in text
    office.write_policy(approved_studies=())
    assert (
        "| list in the site policy | **does not hold it** |"
        in packed(gather(office.site))["2-study.md"]
    )


@pytest.mark.usefixtures("asked")
def test_the_statement_is_the_one_that_report_writes(office: Any) -> None:
    folder = office.folder / "out"
    folder.mkdir()
    done = CliRunner().invoke(app, ["report", "--site", str(office.site), "--out", str(folder)])
    assert done.exit_code == 0
    files = packed(gather(office.site))
    for ending in ("md", "json"):
        assert (
            files[f"3-privacy-statement.{ending}"]
            == (folder / f"privacy-statement.{ending}").read_text()
        )


def test_what_left_is_what_a_reading_of_the_log_alone_counts(
    office: Any, small_study: MakeStudy, asked: NoduleStudy
) -> None:
    other = small_study(north=11, west=4)
    office.answer(other, rounds=3)
    log = EgressLog(office.state)
    log.approval_of(load_policy(office.site).digest)
    for code in ("E-DATA", "E-DATA", "E-POLICY-HOURS"):
        log.write(b"no", "refusal", code, None)
    lines = [json.loads(line) for line in (office.state / "egress.jsonl").read_text().splitlines()]
    left = [line["body"] for line in lines if line["kind"] == "released"]
    files = packed(gather(office.site))
    facts = json.loads(files["4-egress.json"])
    assert (facts["messages"], facts["bytes"]) == (len(left), sum(body["bytes"] for body in left))
    assert sum(row["messages"] for row in facts["left"]) == len(left)
    rounds = [(row["study"], row["round"]) for row in facts["left"] if row["kind"] == "train-reply"]
    assert rounds == [(asked.digest, 1), (asked.digest, 2), *((other.digest, n) for n in (1, 2, 3))]
    text = files["4-egress.md"]
    assert "| E-DATA | the hospital's data cannot be used | 2 |" in text
    assert "| E-POLICY-HOURS | the hospital does not compute at this hour | 1 |" in text
    for head in (lines[0]["hash"], lines[-1]["hash"], facts["heads"]["ledger"]["last"]["hash"]):
        assert f"`{head}`" in text
    assert facts["verified"]["log_head"] == lines[-1]["hash"]
    one = json.loads(packed(gather(office.site, asked.digest))["4-egress.json"])
    assert (one["messages"], one["messages_of_other_studies"]) == (len(left), 3)
    assert {row["study"] for row in one["left"]} == {asked.digest, None}


@pytest.mark.usefixtures("asked")
def test_the_worked_example_gives_the_head_with_the_tools_of_any_machine(office: Any) -> None:
    text = packed(gather(office.site))["4-egress.md"]
    (command,) = re.findall(r"```sh\n(.*)\n```", text)
    ran = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    head = (office.state / "egress.head").read_text().split()[1]
    assert ran.stdout.split()[0] == head
    assert f"must give `{head}`" in text


def test_each_kind_of_reply_says_what_it_can_hold() -> None:
    kinds = {reply.model_fields["kind"].default for reply in messages.Reply.__args__}
    assert kinds == KINDS.keys()


@pytest.mark.usefixtures("asked")
def test_the_model_card_has_the_papers_headings_and_only_public_figures(office: Any) -> None:
    text = packed(gather(office.site))["6-model-card.md"]
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert headings == [  # Mitchell et al. 2019, figure 1, and whom to ask
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
        "Contact",
    ]
    for fact in (
        "not a medical device",
        "60,530",
        "| north | 10 |",
        "| west | 4 |",
        "random weights",
    ):
        assert fact in text, fact
    assert "Unknown at this hospital: the coordinator's `rounds.jsonl` was not given" in text


@pytest.mark.parametrize("task", TASKS)
def test_the_card_has_the_words_of_its_task(task: str, office: Any) -> None:
    study = answered(office, small(task))
    kind, judge = task_of(study), task_of(study).judge
    changes: dict[str, Any] = {}
    if judge is not None:
        scores = phantom_scores(study, office.folder / "data", 90, 20_261_128)
        released = judge.histogram(study, scores)
        changes = {"histogram": released.tolist(), "histogram_noise": 0.5}
    rows = recorded(office, study, **changes)
    quorum = compare(
        gather(office.site), read_rounds(written(office.folder / "rounds.jsonl", rows))
    )
    files = packed(gather(office.site), quorum)
    text = files["6-model-card.md"]
    words = kind.words(study)
    for said in (kind.purpose(study), words.input, words.output, words.groups, words.elsewhere):
        assert plain(said) in text
    if judge is None:
        assert text.count("there is no model to be judged") == 2
        assert "take no part in this study" in text
        for word in ("AUROC", "validation patients", "Taken for the truth"):
            assert word not in text
    else:
        read = judge.read(study, released, 0.5, [released.tolist()])
        assert read is not None
        assert f"| model | {judge.figure} | 95 % interval, noise included |" in text
        assert f"| initial model | {read.discrimination.value:.3f} |" in text
        assert judge.cells in text
        assert f"Taken for the truth: {plain(words.outcome)}" in text
    if task != USUAL:
        assert not re.search(r"(?i)\b(images?|pixels?|CTs?|scans?|scanners?|nodules?)\b", text)
    nothing_spent = "Validation patients: nothing, since nothing of them is released"
    assert (nothing_spent in files["2-study.md"]) is (judge is None)
    assert Page(files[PAGE]).open == []


def test_the_worst_case_over_hospitals_is_a_number(
    office: Any, small_study: MakeStudy, asked: NoduleStudy
) -> None:
    assert worst_case(asked) == pytest.approx((16, 2e-5))
    assert worst_case(small_study(north=9, west=9, east=9)) == pytest.approx((24, 3e-5))
    unjudged = small("summary")
    privacy = unjudged.privacy.model_copy(update={"validation_epsilon": 99.0})
    assert worst_case(unjudged.model_copy(update={"privacy": privacy})) == pytest.approx((16, 2e-5))
    text = packed(gather(office.site))["7-not-covered.md"]
    assert (
        "a patient at all 2 hospitals of the roster has, in the worst case and as agreed, epsilon 16"
        in text
    )
    for row in ("whether a histogram is suppressed", "refusal codes", "when a reply comes"):
        assert f"| {row}" in text
    assert "root" in text


@pytest.mark.usefixtures("asked")
def test_books_that_do_not_verify_make_no_pack(office: Any) -> None:
    out = office.folder / "pack.zip"
    whole = {path: path.read_bytes() for path in (office.site, office.state / "egress.jsonl")}
    for path, data in whole.items():
        path.write_bytes(
            data.replace(b"north" if path == office.site else b"train-reply", b"south", 1)
        )
        with pytest.raises(IntramuralError):
            gather(office.site)
        assert pack(office, "--out", str(out)).exit_code == 2
        assert not out.exists()
        path.write_bytes(data)
    gather(office.site)
    (office.state / "ledger.sqlite").unlink()
    with pytest.raises(IntramuralError):
        gather(office.site)


def test_a_vault_that_writes_meanwhile_makes_no_pack_of_two_moments(
    office: Any, asked: NoduleStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify_slowly(site: Path) -> Verified:
        found = verify(site)
        office.answer(asked, rounds=1, approved_studies=(asked.digest,))
        return found

    monkeypatch.setattr(dossier, "verify", verify_slowly)
    with pytest.raises(RunError, match="between two rounds"):
        gather(office.site)


def test_before_anything_was_approved_there_is_a_pack_of_the_policy(tmp_path: Path) -> None:
    site, state = tmp_path / "site.toml", tmp_path / "state"
    site.write_text(policy_of(state, OTHERS).to_toml())
    state.mkdir()
    for _ in range(2):  # without books, and with empty ones
        files = packed(gather(site))
        assert "Nothing was approved, spent or released" in files["4-egress.md"]
        assert "not approved yet" in files["1-policy.md"]
        assert "Nothing was released" in files["3-privacy-statement.md"]
        if not (state / "egress.jsonl").exists():
            begin(state)


class Page(HTMLParser):
    """Tags, ids and link targets of a page, and whether the tags close in order."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            self.attributes.add(key)
            if key == "id":
                self.ids.append(str(value))
            if key == "href":
                self.targets.append(str(value))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


@pytest.mark.usefixtures("asked")
def test_the_page_holds_the_whole_story_and_fetches_nothing(office: Any) -> None:
    files = packed(gather(office.site))
    page = Page(files[PAGE])
    assert page.open == []
    assert [heading[:2] for heading in page.headings] == [
        "1.",
        "2.",
        "3.",
        "4.",
        "5.",
        "6.",
        "7.",
        "Ap",
    ]
    assert not page.tags & {"script", "img", "link", "iframe", "object", "form", "svg", "base"}
    assert page.attributes <= {
        "lang",
        "charset",
        "name",
        "content",
        "http-equiv",
        "id",
        "href",
        "class",
    }
    assert all(target.startswith("#") for target in page.targets)
    assert {target[1:] for target in page.targets} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    for word in ("url(", "@import", "http://", "https://"):
        assert word not in files[PAGE], word


def test_words_of_the_coordinators_cannot_dress_up(office: Any, small_study: MakeStudy) -> None:
    fields = small_study().model_dump(by_alias=True, exclude_none=True, mode="json")
    evil = "![x](http://evil) # 8. All is well | a | b |<img src=x onerror=y><script>"
    fields["images"]["classes"] = ["benign", evil]
    study = NoduleStudy.model_validate(fields)
    approve(office.site, study)
    files = packed(gather(office.site))
    page = Page(files[PAGE])
    assert not page.tags & {"script", "img"}
    assert all(target.startswith("#") for target in page.targets)
    assert not any("All is well" in heading for heading in page.headings)
    for name in ("2-study.md", "6-model-card.md"):
        assert "All is well" in files[name]
        assert not re.search(r"^# 8|(?<!\\)<|\u202e|!\[", files[name], re.MULTILINE), name


def test_a_cell_stays_a_cell() -> None:
    assert plain("a\nb\t c\u202ed<e>[f]") == "a b c?d\\<e\\>\\[f\\]"
    assert table(("x", "y"), [("a|b", 3)]) == "| x | y |\n| --- | --- |\n| a\\|b | 3 |\n"


# Three digits, so that no count is, by chance, a number of the study.
PATIENTS, NOMINAL = 320, 250


def shared_out(study: StudyProtocol, folder: Path) -> tuple[Path, set[int]]:
    """Patients whose ids and path hold the canary, and how many they are: in all, by side and by class."""
    data = folder / CANARY
    ids = [f"{CANARY}-{number:04d}" for number in range(PATIENTS)]
    found = cohort(study, data, ids, seed=5)
    counts = {PATIENTS, len(found.training), len(found.validation)}
    if (judge := task_of(study).judge) is not None:
        for side in (found.training, found.validation):
            counts |= {len(side.labels), *judge.groups_of(study, side.labels, side.patient_of_view)}
    return data, {count for count in counts if count > 99}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_no_patient_no_count_and_no_path_of_a_real_study_is_in_it(
    task: str, tmp_path: Path
) -> None:
    study = small(task, north=NOMINAL, west=40)
    hospitals = tmp_path / "walls"
    data, counts = shared_out(study, hospitals / "north")
    sites = settle(study, hospitals, {"north": data, "west": data}, device="cpu", noise_seed=None)
    (tmp_path / "run").mkdir()
    rehearsal = Rehearsal(study, tmp_path / "run", sites)
    assert rehearsal.carry_out(Silent(), resume=False).stopped == "finished"
    policy = load_policy(sites["north"])
    assert CANARY in str(policy.data)
    kept = policy.state / "scores" / study.digest[:16]
    kept.mkdir(parents=True, exist_ok=True)
    (kept / f"{CANARY}.npz").write_text(CANARY)
    assert len(list(kept.glob("round-*.npz"))) == study.evaluations

    out = tmp_path / "pack.zip"
    rounds = tmp_path / "run" / "rounds.jsonl"
    arguments = ["pack", "--site", str(sites["north"]), "--rounds", str(rounds), "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output  # the coordinator's heads agree
    with zipfile.ZipFile(out) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    everything = "\n".join([*files, *files.values()])
    own_files = [path.name for path in data.iterdir()]
    for word in ("SECRET", "PATIENT", ".npz", str(tmp_path), tmp_path.name, *own_files):
        assert word not in everything, word
    for path in (policy.data, policy.state, sites["north"]):
        assert str(path) not in everything
    assert len(counts) >= 3
    for count in counts:
        # As a number of its own: not within a hash, a time or a number of bytes.
        assert not re.search(rf"(?<![\w.:,-]){count}(?![\w:]|,\d|\.\d)", everything), count
    nominal = rf"(?<![\w.:,-]){NOMINAL}(?![\w:]|,\d|\.\d)"
    assert re.search(nominal, everything)  # which is found so

    protocol = tomllib.loads(files[f"2-protocol-{study.digest[:12]}.toml"])
    assert protocol["study"] == study.study
    assert "A REHEARSAL" in files[README]
    assert files["5-rounds.md"].count("agrees: answered") == study.rounds
    assert "2 of 2: north, west" in files["5-rounds.md"]
    egress = json.loads(files["4-egress.json"])
    kinds = [row["kind"] for row in egress["left"]]
    assert kinds.count("train-reply") == study.rounds
    assert kinds.count("evaluate-reply") == (1 if study.evaluations else 0)
    for record in (
        ClosedRound.model_validate_json(line) for line in rounds.read_text().splitlines()
    ):
        assert f"`{record.heads['north']}`" in files["5-rounds.md"]
