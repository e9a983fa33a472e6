"""docs/datasets.md: its commands run on made files of the same names, its settings are a protocol."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

from client.readers import hospital_folders
from common.tasks.nodule_classification.study import NoduleStudy
from simulation.__main__ import app
from simulation.prepare import LUNG_NODULES
from tests.studies import nodule_study
from tests.unit.simulation.test_convert_lidc import series
from tests.unit.simulation.test_convert_luna16 import stand_in
from tests.unit.simulation.test_convert_medmnist import published

# Those whose files are not made here: their task, their folder, their hospitals.
RECORDS = {"heart": ("risk", "fed-heart-disease", 4), "brca": ("survival", "fed-tcga-brca", 6)}


@pytest.fixture
def guide(repository: Path) -> str:
    return (repository / "docs/datasets.md").read_text()


def with_settings(block: str) -> NoduleStudy:
    """The shipped protocol with the tables of `block` laid over its own."""
    fields: dict[str, Any] = tomllib.loads(LUNG_NODULES.read_text())
    for table, values in tomllib.loads(block).items():
        fields[table] = fields[table] | values
    return nodule_study(tomli_w.dumps(fields))


def test_its_settings_are_a_protocol(guide: str) -> None:
    for_ct, for_cubes = re.findall(r"^```toml\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    study = with_settings(for_ct)
    assert study.images.ct is not None
    assert study.images.ct.size_mm / study.images.size == pytest.approx(0.7)
    assert with_settings(for_cubes).images.classes == ("benign", "malignant")


def test_its_commands_run(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "luna", series=4)
    np.savez_compressed(tmp_path / "nodulemnist3d.npz", **published())  # type: ignore[arg-type]
    name = series(tmp_path / "LIDC-IDRI", 1, "LIDC-IDRI-0001", "GE MEDICAL SYSTEMS")
    rows = ["seriesuid,coordX,coordY,coordZ,class", f"{name},-90,-72,44,1", f"{name},-96,-72,44,0"]
    (tmp_path / "candidates_V2.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ intramural-simulate (convert .*)$", guide, re.MULTILINE)
    found = {}
    for command in commands:
        if command.split()[1] in RECORDS:
            continue
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 0, done.output
        found[command.split()[1]] = list(
            hospital_folders("nodule-classification", tmp_path / "out/hospitals")
        )
        shutil.rmtree("out")
    assert found == {
        "luna16": ["subset0", "subset1"],
        "lidc": ["ge-medical-systems"],
        "medmnist": [f"hospital-{n:03d}" for n in (1, 2, 3, 4)],
    }


@pytest.mark.parametrize("name", ["heart", "brca"])
def test_its_commands_for_records_run(
    name: str, guide: str, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, folder, hospitals = RECORDS[name]
    published = repository.parent / "shared/data" / folder
    if not published.exists():
        pytest.skip(f"the published files are not at {published}")
    shutil.copytree(published, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(rf"^\$ intramural-simulate (convert {name} .*)$", guide, re.MULTILINE)
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == 0, done.output
    assert len(hospital_folders(task, tmp_path / command.split()[-1])) == hospitals
