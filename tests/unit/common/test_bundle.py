"""The thin bundle: Flower takes it, there is no code in it, and it has the same bytes everywhere."""

import io
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from flwr.app.message import Message  # noqa: F401  (flwr.cli needs flwr.app first)
from flwr.cli.config_utils import get_fab_metadata
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.common.config import get_fab_config
from flwr.serverapp import ServerApp

from common.bundle import CLIENT_APP, SERVER_APP, bundle, bundle_hash


def test_flower_reads_it_and_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, version = get_fab_metadata(bundle())
    assert (name, version) == ("intramural/study", "0.1.0")
    app = get_fab_config(bundle())["tool"]["flwr"]["app"]["components"]
    assert app == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    installed = install_from_fab(bundle(), tmp_path, skip_prompt=True)
    capsys.readouterr()
    assert [f.name for f in installed.iterdir()] == ["pyproject.toml"]
    assert installed.name.endswith(bundle_hash()[:8])


def test_it_names_apps_that_are_installed() -> None:
    for where, kind in ((CLIENT_APP, ClientApp), (SERVER_APP, ServerApp)):
        module, _, name = where.partition(":")
        assert isinstance(getattr(import_module(module), name), kind)


def test_it_holds_no_python() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        assert sorted(archive.namelist()) == [".info/CONTENT", "pyproject.toml"]


def test_another_process_makes_the_same_bytes(repository: Path) -> None:
    code = "from common.bundle import bundle_hash; print(bundle_hash())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository
    )
    assert other.stdout.strip() == bundle_hash()
