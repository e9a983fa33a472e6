"""The site policy permits what it names and nothing else, and says what differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.policy import SitePolicy, load_policy, permit
from common.errors import PolicyError, RehearsalOnlyError, RoundError, UnknownStudyError
from common.protocol import Evaluation, StudyProtocol

MakeStudy = Callable[..., StudyProtocol]


def site(study: StudyProtocol, **changes: Any) -> SitePolicy:
    fields: dict[str, Any] = {
        "hospital": "north",
        "data": "/data",
        "state": "/state",
        "approved_studies": [study.digest],
        "max_epsilon": 10.0,
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
    return "\n".join(f"{key} = {value}" for key, value in (rows | changes).items())


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
