"""The command line: what is refused, before anything runs and in one sentence each."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from common.protocol import load_protocol
from simulation.__main__ import app, resume_command
from simulation.prepare import FIRST_RUN, LUNG_NODULES, Options, adapted


def simulate(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, done.output


WRONG = [
    ("rounds = 10", "round = 10", "unknown key 'round'; did you mean 'rounds'?"),
    ("\nepsilon = 8.0 ", "\nepsilon = 0.0 ", "greater than 0"),
    ("\nepsilon = 8.0 ", "\nepsilon = -1.0 ", "greater than 0"),
    ("\nepsilon = 8.0 ", "\nepsilon = nan ", "finite"),
    ("rounds = 10", "rounds = 0", "greater than or equal to 1"),
    ('"compact-cnn"', '"vgg"', "'compact-cnn', 'resnet18' or 'resnet18-frozen-affine'"),
    ("quorum = 3", "quorum = 5", "quorum is 5 but the roster has 4 hospital(s)"),
]


@pytest.mark.parametrize(("good", "wrong", "says"), WRONG)
def test_a_wrong_protocol_is_refused_in_one_sentence_and_nothing_runs(
    tmp_path: Path, good: str, wrong: str, says: str
) -> None:
    text = LUNG_NODULES.read_text()
    assert good in text
    protocol = tmp_path / "protocol.toml"
    protocol.write_text(text.replace(good, wrong))
    code, said = simulate("--protocol", protocol, "--runs", tmp_path / "runs")
    assert code == 2
    assert said.startswith("E-PROTOCOL: ")
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_one_hospital_with_quorum_two_is_refused(tmp_path: Path) -> None:
    text = LUNG_NODULES.read_text()
    first = text.index("[[hospitals]]", text.index("[[hospitals]]") + 1)
    protocol = tmp_path / "protocol.toml"
    protocol.write_text(text[:first].replace("quorum = 3", "quorum = 2"))
    code, said = simulate("--protocol", protocol, "--runs", tmp_path / "runs")
    assert code == 2
    assert "quorum is 2 but the roster has 1 hospital(s)" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "spark"], "must be 'local' or 'ray'"),
        (["--ray-address", "auto"], "--ray-address needs --backend ray"),
        (["--data", "absent", "--hospitals", "3"], "cannot be used with --data"),
        (["--patient-id-pattern", "(?P<patient>.*)"], "needs --data"),
        (["--resume", "--name", "never"], "no run to resume"),
        (["--resume", "--name", "never", "--no-dp"], "leave those options out"),
        (["--data", "absent"], "absent"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    code, said = simulate(*arguments, "--runs", tmp_path / "runs")
    assert code == 2
    assert says in said.replace("\n", " ")
    assert not (tmp_path / "runs").exists()


def test_an_error_in_the_data_names_file_and_row(tmp_path: Path) -> None:
    hospital = tmp_path / "data" / "north"
    hospital.mkdir(parents=True)
    Image.new("L", (40, 40)).save(hospital / "a.png")
    (hospital / "manifest.csv").write_text("image,label,patient_id\na.png,tumour,p1\n")
    code, said = simulate("--data", tmp_path / "data", "--runs", tmp_path / "runs")
    assert code == 2
    assert said.startswith("E-DATA: ")
    assert "row 2" in said
    assert "tumour" in said


def test_without_dp_the_study_takes_the_settings_chosen_without_it() -> None:
    protocol = load_protocol(LUNG_NODULES)
    options = Options(
        protocol=None,
        data=None,
        patient_id_pattern=None,
        hospitals=7,
        rounds=4,
        no_dp=True,
        baselines=False,
        backend="local",
        ray_address=None,
        folder=Path("unused"),
        resume=False,
        device="cpu",
        engine="book-keeping",
        noise_seed=None,
    )
    changed = adapted(protocol, options)
    assert changed.privacy.mechanism == "none"
    assert changed.training == protocol.without_dp
    assert changed.rounds == 4
    assert len(changed.hospitals) == 7
    assert changed.participation.quorum == 6
    assert changed.digest != protocol.digest


def test_the_way_to_go_on_is_a_command_line() -> None:
    said = resume_command(Path("my runs/a"), baselines=True, backend="ray")
    assert said == (
        "intramural-simulate --runs 'my runs' --name a --resume --baselines --backend ray"
    )


@pytest.mark.slow
def test_json_is_one_object_on_the_last_line(tmp_path: Path) -> None:
    protocol = tmp_path / "protocol.toml"
    text = FIRST_RUN.read_text().replace("rounds = 10", "rounds = 1")
    for many, few in (("= 120", "= 9"), ("= 80", "= 8"), ("= 48", "= 7"), ("= 16", "= 6")):
        assert f"nominal-patients {many}\n" in text
        text = text.replace(f"nominal-patients {many}\n", f"nominal-patients {few}\n")
    protocol.write_text(text)
    done = CliRunner().invoke(
        app, ["--protocol", str(protocol), "--runs", str(tmp_path), "--name", "one", "--json"]
    )
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["run"] == str(tmp_path / "one")
    assert summary["rounds"] == 1
    assert summary["stopped"] == "finished"
    exact = {"auroc", "auroc_ci", "average_precision"}
    assert exact | {"released_auroc", "released_auroc_ci"} <= set(summary["pooled"])
    assert 0.5 < summary["zero_shot"]["auroc"] <= 1
    expected = {"auroc", "local_only_auroc", "epsilon", "delta", "nominal_patients"}
    for figures in summary["hospitals"].values():
        assert expected <= set(figures)
