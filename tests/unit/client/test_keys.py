"""`intramural-client keygen`: a key that stays and a request that is sent."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from client.__main__ import app
from client.keys import make_hospital_key
from common.errors import KeyFileError
from common.keys import fingerprint, load_private_key, load_request


def keygen(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["keygen", *(str(word) for word in words)])


def test_keygen_makes_a_key_and_a_request_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "keys"
    made = keygen("--hospital", "north", "--out", folder)
    assert made.exit_code == 0, made.output
    assert {path.name for path in folder.iterdir()} == {"hospital.key", "hospital.csr"}
    assert (folder / "hospital.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    key = load_private_key(folder / "hospital.key").public_key()
    request = load_request(folder / "hospital.csr")
    assert request.common_name == "north"
    assert fingerprint(request.public_key) == fingerprint(key)
    assert f"fingerprint: {fingerprint(key)}\n" in made.output
    assert f"send {folder / 'hospital.csr'}" in made.output
    raw = x509.load_pem_x509_csr((folder / "hospital.csr").read_bytes())
    assert isinstance(raw.signature_hash_algorithm, hashes.SHA384)
    assert len(raw.extensions) == 0


def test_the_request_holds_nothing_of_the_private_key(tmp_path: Path) -> None:
    made = make_hospital_key("north", tmp_path)
    secret = load_private_key(made.key).private_numbers().private_value.to_bytes(48)
    der = x509.load_pem_x509_csr(made.request.read_bytes()).public_bytes(Encoding.DER)
    assert secret not in der
    assert b"PRIVATE" not in made.request.read_bytes()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not here")
def test_openssl_reads_the_request(tmp_path: Path) -> None:
    made = make_hospital_key("north", tmp_path)
    command = ["openssl", "req", "-verify", "-noout", "-subject", "-text", "-in", str(made.request)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = done.stdout + done.stderr
    assert "verify OK" in shown
    assert "CN = north" in shown or "CN=north" in shown
    assert "NIST CURVE: P-384" in shown
    assert "ecdsa-with-SHA384" in shown


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not here")
def test_the_fingerprint_read_out_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    made = make_hospital_key("north", tmp_path)
    command = ["ssh-keygen", "-l", "-f", str(made.key)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == made.fingerprint


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    assert keygen("--hospital", "north", "--out", tmp_path).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = keygen("--hospital", "north", "--out", tmp_path)
    assert again.exit_code == 2
    assert again.output.startswith("E-KEY: expected no private key at")
    assert len(again.output.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_hospitals_have_two_keys(tmp_path: Path) -> None:
    made = {make_hospital_key("north", tmp_path / str(n)).fingerprint for n in range(2)}
    assert len(made) == 2


@pytest.mark.parametrize("name", ["", "North", "north hospital", "../north", "n" * 64, "nörd"])
def test_a_name_that_no_protocol_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="expected the hospital's name"):
        make_hospital_key(name, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = keygen("--hospital", "north", "--out", tmp_path / "file" / "keys")
    assert refused.exit_code == 2
    assert refused.output.startswith("E-KEY: cannot write a key and its request into")


def test_the_key_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make_hospital_key("north", tmp_path / "keys")
    finally:
        os.umask(before)
    assert made.key.stat().st_mode & 0o777 == 0o600
