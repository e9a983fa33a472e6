"""The site policy permits what it names and nothing else, and says what differs."""

import hashlib
import tomllib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.policy import Permit, SitePolicy, check_hours, load_policy, permit
from common.errors import (
    HoursError,
    LimitError,
    PolicyError,
    RehearsalOnlyError,
    RoundError,
    UnknownStudyError,
)
from common.protocol import Evaluation, StudyProtocol
from tests.hospital import LIMITS

MakeStudy = Callable[..., StudyProtocol]


def site(study: StudyProtocol, **changes: Any) -> SitePolicy:
    fields: dict[str, Any] = {
        "hospital": "north",
        "data": "/data",
        "state": "/state",
        "approved_studies": [study.digest],
        "max_epsilon": 10.0,
        "limits": LIMITS,
    }
    return SitePolicy.model_validate(fields | changes)


def written(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def toml(**changes: str) -> str:
    rows = {
        "hospital": '"north"',
        "data": '"/data"',
        "state": '"/state"',
        "approved-studies": f'["{"0" * 64}"]',
        "max-epsilon": "10.0",
    }
    top = "\n".join(f"{key} = {value}" for key, value in (rows | changes).items())
    return f"{top}\n\n{tomli_w.dumps({'limits': LIMITS})}"


def test_an_approved_study_with_this_hospital_is_permitted(small_study: MakeStudy) -> None:
    permit(small_study(), site(small_study()), 1, training=True)


@pytest.mark.parametrize("approved", [[], ["0" * 64, "1" * 64]])
def test_an_unapproved_study_is_refused(small_study: MakeStudy, approved: list[str]) -> None:
    study = small_study()
    with pytest.raises(UnknownStudyError) as refused:
        permit(study, site(study, approved_studies=approved), 1, training=True)
    found, expected = study.digest[:12], ", ".join(d[:12] for d in approved) or "none"
    assert f"'small' has digest {found}, approved: {expected}" in str(refused.value)


def test_a_study_that_changed_after_approval_is_refused(small_study: MakeStudy) -> None:
    approved = small_study()
    privacy = approved.privacy.model_copy(update={"max_grad_norm": 1.0000001})
    with pytest.raises(UnknownStudyError, match="approved: "):
        permit(approved.model_copy(update={"privacy": privacy}), site(approved), 1, training=True)


def test_a_hospital_that_is_not_on_the_roster_refuses(small_study: MakeStudy) -> None:
    with pytest.raises(UnknownStudyError, match="'south' is not on the roster of study 'small'"):
        permit(small_study(), site(small_study(), hospital="south"), 1, training=True)


def test_no_privacy_is_permitted_in_a_rehearsal_only(small_study: MakeStudy) -> None:
    study = small_study(mechanism="none")
    permit(study, site(study, rehearsal=True), 1, training=True)
    with pytest.raises(RehearsalOnlyError, match="rehearsal = true"):
        permit(study, site(study), 1, training=True)


def test_a_written_policy_is_read(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, toml(**{"rehearsal": "true", "noise-seed": "7"})))
    assert (policy.hospital, policy.max_epsilon, policy.noise_seed) == ("north", 10.0, 7)
    assert policy.approved_studies == ("0" * 64,)
    strict = load_policy(written(tmp_path, toml()))
    assert (strict.rehearsal, strict.noise_seed) == (False, None)


def test_how_a_hospital_computes_is_its_own_choice_and_has_defaults(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, toml()))
    found = (policy.device, policy.engine, policy.max_views_per_chunk, policy.precision)
    assert found == ("auto", "book-keeping", None, "float32")
    for engine, precision, most in (("opacus", "bf16", 1), ("book-keeping", "tf32", 4096)):
        chosen = {
            "engine": f'"{engine}"',
            "precision": f'"{precision}"',
            "max-views-per-chunk": str(most),
        }
        policy = load_policy(written(tmp_path, toml(**chosen)))
        assert (policy.engine, policy.precision, policy.max_views_per_chunk) == (
            engine,
            precision,
            most,
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"noise-seed": "7"}, "noise-seed makes the noise removable; it needs rehearsal = true"),
        (
            {"aproved-studies": "[]"},
            "unknown key 'aproved-studies'; did you mean 'approved-studies'",
        ),
        ({"max_epsilonn": "3.0"}, "unknown key 'max_epsilonn'"),
        ({"max_epsilon": "3.0"}, "unknown key 'max_epsilon'; did you mean 'max-epsilon'"),
        ({"max-epsilonn": "3.0"}, "unknown key 'max-epsilonn'; did you mean 'max-epsilon'"),
        ({"max-epsilon": "0.0"}, "'max-epsilon' is 0.0 but must be greater than 0"),
        ({"max-epsilon": "inf"}, "'max-epsilon' is inf but must be a finite number"),
        ({"max-epsilon": "nan"}, "'max-epsilon' is nan but must"),
        ({"approved-studies": '["*"]'}, "'approved-studies.0' is '*' but must match pattern"),
        ({"hospital": '"../north"'}, "'hospital' is '../north' but must match pattern"),
        ({"device": '"tpu"'}, "'device' is 'tpu' but must be 'auto', 'cpu' or 'cuda'"),
        ({"engine": '"hooks"'}, "'engine' is 'hooks' but must be 'book-keeping' or 'opacus'"),
        ({"engine": "true"}, "'engine' is True but must be 'book-keeping' or 'opacus'"),
        ({"engin": '"opacus"'}, "unknown key 'engin'; did you mean 'engine'"),
        (
            {"precision": '"fp16"'},
            "'precision' is 'fp16' but must be 'float32', 'tf32' or 'bf16'",
        ),
        ({"precision": "32"}, "'precision' is 32 but must be"),
        ({"max-views-per-chunk": "0"}, "'max-views-per-chunk' is 0 but must be greater than or"),
        ({"max-views-per-chunk": "-1"}, "'max-views-per-chunk' is -1 but must"),
        ({"max-views-per-chunk": "1.5"}, "'max-views-per-chunk' is 1.5 but must"),
        ({"max-views-per-chunk": '"8"'}, "'max-views-per-chunk' is '8' but must"),
        ({"max-views-per-chunk": "true"}, "'max-views-per-chunk' is True but must"),
        ({"max-views-per-chunks": "8"}, "did you mean 'max-views-per-chunk'"),
    ],
)
def test_a_policy_with_a_mistake_permits_nothing(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    with pytest.raises(PolicyError) as refused:
        load_policy(written(tmp_path, toml(**changes)))
    assert says in str(refused.value)
    assert str(tmp_path / "site.toml") in str(refused.value)


@pytest.mark.parametrize("key", ["hospital", "data", "state", "approved-studies", "max-epsilon"])
def test_a_policy_without_a_key_permits_nothing(tmp_path: Path, key: str) -> None:
    rest = "\n".join(row for row in toml().splitlines() if not row.startswith(key))
    with pytest.raises(PolicyError, match=f"'{key}' is missing"):
        load_policy(written(tmp_path, rest))


def test_no_policy_permits_nothing(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"cannot read the site policy .*absent\.toml"):
        load_policy(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    "content", [b"hospital = ", b"\xff\xfe", b"hospital = 'a'\nhospital = 'b'"]
)
def test_what_is_not_toml_permits_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match="cannot read the site policy"):
        load_policy(path)


def test_a_policy_cannot_be_changed(small_study: MakeStudy) -> None:
    policy = site(small_study())
    with pytest.raises(ValueError, match="frozen"):
        policy.max_epsilon = 100.0


@pytest.mark.parametrize(("server_round", "training"), [(4, True), (5, False), (10**9, True)])
def test_a_round_beyond_the_approved_study_is_refused(
    small_study: MakeStudy, server_round: int, training: bool
) -> None:
    study = small_study()
    assert study.rounds == 3
    with pytest.raises(RoundError, match=f"asks for round {server_round}"):
        permit(study, site(study), server_round, training=training)


def test_the_last_round_of_each_kind_is_permitted(small_study: MakeStudy) -> None:
    study = small_study()
    permit(study, site(study), 3, training=True)
    permit(study, site(study), 4, training=False)


@pytest.mark.parametrize(
    ("every", "judged"), [(1, {1, 2, 3, 4}), (2, {1, 3, 4}), (3, {1, 4}), (50, {1, 4})]
)
def test_a_request_only_to_evaluate_fits_a_round_that_evaluates(
    small_study: MakeStudy, every: int, judged: set[int]
) -> None:
    """Each one is a release from the validation patients' account: no more than were approved."""
    study = small_study().model_copy(update={"evaluation": Evaluation(every=every)})
    policy = site(study)
    for server_round in (1, 2, 3, 4):
        if server_round in judged:
            permit(study, policy, server_round, training=False)
        else:
            with pytest.raises(
                RoundError, match=f"evaluates every {every} rounds and not in round {server_round}"
            ):
                permit(study, policy, server_round, training=False)
        if server_round <= study.rounds:  # training may be asked for in any round
            permit(study, policy, server_round, training=True)
    with pytest.raises(RoundError, match="asks for round 5 and has 4"):
        permit(study, policy, 5, training=False)


@pytest.mark.parametrize("changes", [{"rehearsal": '"yes"'}, {"rehearsal": "1"}])
def test_only_true_is_a_yes(tmp_path: Path, changes: dict[str, str]) -> None:
    with pytest.raises(PolicyError, match="rehearsal"):
        load_policy(written(tmp_path, toml(**changes)))


def limited(study: StudyProtocol, **changes: Any) -> SitePolicy:
    return site(study, limits=LIMITS | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max-rounds": 2}, "rounds: asked 3, allowed 2"),
        ({"max-steps": 5}, "local steps: asked 6, allowed 5"),
        ({"max-evaluations": 3}, "evaluations: asked 4, allowed 3"),
        ({"models": []}, "model: asked compact-cnn, allowed "),
        ({"models": ["resnet18"]}, "model: asked compact-cnn, allowed resnet18"),
        ({"metrics": []}, "metric: asked score-histogram, allowed none"),
    ],
)
def test_what_exceeds_a_limit_is_refused_with_asked_and_allowed(
    small_study: MakeStudy, changes: dict[str, Any], says: str
) -> None:
    study = small_study()
    for server_round, training in ((1, True), (4, False)):
        with pytest.raises(LimitError) as refused:
            permit(study, limited(study, **changes), server_round, training=training)
        assert says in str(refused.value)
        assert refused.value.code == "E-POLICY-LIMITS"
        assert not any(digit in refused.value.public_text for digit in "0123456789")


def test_what_just_fits_the_limits_is_permitted_on_the_policys_terms(
    small_study: MakeStudy,
) -> None:
    study = small_study()
    exact = {"max-rounds": 3, "max-steps": 6, "max-evaluations": 4, "models": ["compact-cnn"]}
    floor = {"min-noise-multiplier": 1.5, "smallest-group": 12}
    permitted = permit(study, limited(study, **exact, **floor), 1, training=True)
    assert permitted == Permit(max_epsilon=10.0, min_noise_multiplier=1.5, smallest_group=12)


def test_a_floor_under_the_noise_and_no_noise_do_not_go_together(small_study: MakeStudy) -> None:
    study = small_study(mechanism="none")
    policy = site(study, rehearsal=True, limits=LIMITS | {"min-noise-multiplier": 0.1})
    with pytest.raises(LimitError, match=r"noise multiplier: asked none, allowed 0\.1"):
        permit(study, policy, 1, training=True)


@pytest.mark.parametrize("key", [key for key in LIMITS if key != "hours"])
def test_no_limit_has_a_default(tmp_path: Path, key: str) -> None:
    document = tomllib.loads(toml())
    del document["limits"][key]
    with pytest.raises(PolicyError, match=f"'limits.{key}' is missing"):
        load_policy(written(tmp_path, tomli_w.dumps(document)))


@pytest.mark.parametrize(
    ("hours", "clock", "within"),
    [
        ("18:00-06:00", "18:00", True),
        ("18:00-06:00", "23:59", True),
        ("18:00-06:00", "05:59", True),
        ("18:00-06:00", "06:00", False),
        ("18:00-06:00", "12:00", False),
        ("09:00-17:30", "17:29", True),
        ("09:00-17:30", "17:30", False),
        ("09:00-17:30", "08:59", False),
        ("09:00-09:00", "03:00", True),  # round the clock
        (None, "12:00", True),
    ],
)
def test_hours_are_kept_over_midnight_too(
    small_study: MakeStudy, hours: str | None, clock: str, within: bool
) -> None:
    policy = limited(small_study(), hours=hours)
    now = datetime.fromisoformat(f"2026-11-25T{clock}")
    if within:
        check_hours(policy, now)
    else:
        with pytest.raises(HoursError, match=f"within {hours} and it is {clock}"):
            check_hours(policy, now)


@pytest.mark.parametrize("hours", ["18-6", "24:00-06:00", "18:60-06:00", "18:00", "", "always"])
def test_hours_that_are_none_permit_nothing(tmp_path: Path, hours: str) -> None:
    with pytest.raises(PolicyError, match=r"'limits\.hours' is"):
        load_policy(written(tmp_path, f'{toml()}hours = "{hours}"\n'))


def test_every_byte_of_the_file_is_in_the_digest(tmp_path: Path) -> None:
    text = toml()
    path = written(tmp_path, text)
    policy = load_policy(path)
    assert policy.digest == hashlib.sha256(text.encode()).hexdigest()
    commented = load_policy(written(tmp_path, text + "# a word\n"))
    assert commented == policy
    assert commented.digest != policy.digest
    made = load_policy(written(tmp_path, policy.to_toml()))
    assert made == policy
    assert made.digest == SitePolicy.model_validate(made.model_dump()).digest
