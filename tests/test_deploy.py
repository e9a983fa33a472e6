"""What deploy/ promises: the units' and containers' walls, and that they are what the guides speak of."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
UNITS = sorted((REPOSITORY / "deploy" / "systemd").glob("*.service"))
COMPOSE = REPOSITORY / "deploy" / "compose"
GUIDES = {
    name: (REPOSITORY / "docs" / f"operate-{name}.md").read_text()
    for name in ("coordinator", "hospital")
}
PROGRAMS = "/opt/intramural/.venv/bin"

each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine"
)


def service(unit: Path) -> dict[str, str]:
    """The keys of [Service]; the values of one that is given again, a line each."""
    found: dict[str, str] = {}
    for line in unit.read_text().split("[Service]\n")[1].split("\n[")[0].splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def unit_named(name: str) -> dict[str, str]:
    (found,) = [unit for unit in UNITS if unit.stem == f"intramural-{name}"]
    return service(found)


def console(guide: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", guide, re.DOTALL)
    return [line.removeprefix("# ") for block in blocks for line in block.splitlines()]


# --- systemd ---------------------------------------------------------------------------------------


@each_unit
@needs_systemd
def test_systemd_has_nothing_to_say_about_a_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAMS, str(Path(sys.executable).parent)))
    done = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if unit.stem in line]
    assert (done.returncode, ours) == (0, [])


@each_unit
@needs_systemd
def test_the_guides_state_the_exposure_that_systemd_finds(unit: Path) -> None:
    found = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        pytest.skip(f"this systemd-analyze judges no unit that is not loaded: {found.stderr}")
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", found.stdout)
    assert level is not None, found.stdout
    assert float(level.group(1)) < 2.0
    told = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    )
    if told.stdout.startswith("systemd 252 "):  # others weigh in another way
        guide = GUIDES["coordinator" if "coordinator" in unit.stem else "hospital"]
        (sentence,) = re.findall(
            r"`systemd-analyze security`\s\(systemd 252\) says ([^;]*?) on a\s", guide
        )
        name = unit.stem.removeprefix("intramural-")
        said = re.search(rf"([\d.]+) for the {name}", sentence) or re.match(r"([\d.]+)", sentence)
        assert said is not None
        assert said.group(1) == level.group(1)


@each_unit
def test_a_unit_can_do_nothing_that_it_need_not(unit: Path) -> None:
    keys = service(unit)
    assert keys["User"] == unit.stem
    assert keys["ProtectSystem"] == "strict"
    assert keys["CapabilityBoundingSet"] == keys["AmbientCapabilities"] == ""
    assert keys["UMask"] == "0077"
    assert keys["StateDirectoryMode"] == "0700"
    assert keys["LimitCORE"] == "0"
    assert keys["Restart"] == "on-failure"
    assert keys["RestartPreventExitStatus"] == "2"
    assert keys["SystemCallFilter"].splitlines()[0] == "@system-service"
    for key in (
        "NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts",
        "RestrictNamespaces", "RestrictSUIDSGID", "RestrictRealtime", "LockPersonality",
        "ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs",
        "ProtectKernelModules", "ProtectKernelTunables",
    ):  # fmt: skip
        assert keys[key] == "yes", key


def test_the_vault_has_no_network_and_the_relay_no_patient() -> None:
    vault, relay = unit_named("vault"), unit_named("relay")
    assert vault["PrivateNetwork"] == "yes"
    assert "AF_INET" not in vault["RestrictAddressFamilies"]
    assert vault["IPAddressDeny"] == "any"
    assert vault["TemporaryFileSystem"] == "/run:ro"
    assert vault["BindPaths"] == "/run/intramural"
    assert vault["ReadOnlyPaths"] == "/var/lib/intramural/data"
    assert "PrivateUsers" not in vault  # it could not tell the relay's user from others
    hidden = relay["InaccessiblePaths"].split()
    for what in (
        "/var/lib/intramural/data",
        "/var/lib/intramural/state",
        "/etc/intramural/site.toml",
    ):
        assert what in hidden  # without a dash: the unit does not start where one is absent
    for name in ("relay", "coordinator"):
        assert unit_named(name)["MemoryDenyWriteExecute"] == "yes"


def test_only_the_relays_user_reaches_the_socket() -> None:
    """client/channel.py: the folder is the vault's user's, and the socket gets the folder's group."""
    vault, relay = unit_named("vault"), unit_named("relay")
    assert (vault["RuntimeDirectory"], vault["RuntimeDirectoryMode"]) == ("intramural", "0750")
    assert relay["Group"] != vault["Group"] == relay["SupplementaryGroups"] == "intramural"
    users = [line for line in console(GUIDES["hospital"]) if line.startswith("useradd")]
    with_group = {line.split()[-1] for line in users if "--groups intramural" in line}
    assert with_group == {vault["User"], relay["User"]}


@each_unit
def test_a_unit_is_what_its_guide_speaks_of(unit: Path) -> None:
    keys = service(unit)
    guide = GUIDES["coordinator" if "coordinator" in unit.stem else "hospital"]
    commands = console(guide)
    assert [c for c in commands if c.startswith("useradd") and c.endswith(f" {keys['User']}")]
    assert any(f"deploy/systemd/{unit.name}" in c for c in commands if c.startswith("cp "))
    typed = keys["ExecStart"].removeprefix(f"{PROGRAMS}/")
    if unit.stem == "intramural-coordinator":  # run in the folder above, where it is the default
        typed = typed.removesuffix(" --home /var/lib/intramural/coordinator")
    assert re.search(rf"^# terminal\n(.*\n)?{re.escape(typed)}$", guide, re.MULTILINE), typed


# --- containers ------------------------------------------------------------------------------------


def services(name: str) -> dict[str, dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((COMPOSE / f"{name}.yaml").read_text())
    services: dict[str, dict[str, Any]] = found["services"]
    return services


def mounts(container: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Path in the container -> what is mounted there, and whether it is read-only."""
    found = {}
    for volume in container["volumes"]:
        source, target, *mode = volume.split(":")
        found[target] = (source, mode == ["ro"])
    return found


@pytest.mark.parametrize("name", ["coordinator", "hospital"])
def test_a_container_can_do_nothing_that_it_need_not(name: str) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    for container in services(name).values():
        assert container["image"] == f"intramural:{version}"
        assert container["read_only"] is True
        assert container["cap_drop"] == ["ALL"]
        assert container["security_opt"] == ["no-new-privileges:true"]
        assert re.fullmatch(r"1000[1-9]:10000", container["user"])
        assert container["restart"] == "unless-stopped"
        assert container["stop_grace_period"] == "30s"
        assert container["logging"]["driver"] == "json-file"
        assert set(container["logging"]["options"]) == {"max-size", "max-file"}
        assert not {
            "privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "env_file",
            "environment", "extends",
        } & set(container)  # fmt: skip
        assert (COMPOSE / container["build"]["context"]).resolve() == REPOSITORY
        assert (REPOSITORY / container["build"]["dockerfile"]).is_file()


def test_the_coordinators_container_has_one_port_and_one_folder() -> None:
    (container,) = services("coordinator").values()
    assert container["ports"] == ["9443:9443"]
    assert "network_mode" not in container
    assert mounts(container) == {"/var/lib/intramural": ("/var/lib/intramural", False)}
    assert " ".join(container["command"]) == unit_named("coordinator")["ExecStart"].removeprefix(
        f"{PROGRAMS}/"
    )


def test_the_hospitals_containers_are_the_two_walls() -> None:
    found = services("hospital")
    assert set(found) == {"vault", "relay"}
    vault, relay = found["vault"], found["relay"]
    for name, container in found.items():
        assert "ports" not in container
        assert "expose" not in container
        typed = unit_named(name)["ExecStart"].removeprefix(f"{PROGRAMS}/")
        assert " ".join(container["command"]) == typed
    assert vault["network_mode"] == "none"
    assert "network_mode" not in relay
    assert vault["user"] != relay["user"]
    seen, reached = mounts(vault), mounts(relay)
    assert seen["/var/lib/intramural/data"] == ("/var/lib/intramural/data", True)
    assert seen["/etc/intramural/site.toml"][1] is True
    assert set(seen) & set(reached) == {"/run/intramural"}
    assert seen["/run/intramural"] == reached["/run/intramural"] == ("socket", False)
    assert {target for target, (_, read_only) in reached.items() if not read_only} == {
        "/var/lib/intramural/relay", "/run/intramural",
    }  # fmt: skip
    for source, _ in reached.values():  # nothing above what the relay must not see
        for hidden in unit_named("relay")["InaccessiblePaths"].split():
            assert not Path(hidden).is_relative_to(source), source


def test_the_socket_between_the_containers_is_the_vaults() -> None:
    yaml = pytest.importorskip("yaml")
    volumes = yaml.safe_load((COMPOSE / "hospital.yaml").read_text())["volumes"]
    assert set(volumes) == {"socket"}
    user, group = services("hospital")["vault"]["user"].split(":")
    assert volumes["socket"]["driver_opts"]["o"] == f"uid={user},gid={group},mode=0750"


def test_the_image_has_the_users_and_nothing_but_the_program() -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    users = dict(re.findall(r"useradd --uid (\d+) .* (intramural-\w+)", text))
    assert users == {
        services(file)[name]["user"].split(":")[0]: f"intramural-{name}"
        for file, name in (
            ("hospital", "vault"), ("hospital", "relay"), ("coordinator", "coordinator"),
        )
    }  # fmt: skip
    assert "FROM python:3.11-slim" in lines
    assert "--constraint /src/constraints.txt /src" in text
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE)
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    ignore = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert sorted(copied) == sorted(line[1:] for line in ignore if line.startswith("!"))
    for name in copied:
        assert (REPOSITORY / name).exists(), name


# --- guides ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_what_is_not_run_of_a_guide_is_at_least_shell_and_there(name: str) -> None:
    for _, block in re.findall(r"```(console|compose)\n(.*?)```", GUIDES[name], re.DOTALL):
        assert all(line.startswith("# ") for line in block.splitlines()), block
        script = block.replace("\n# ", "\n").removeprefix("# ")
        parsed = subprocess.run(
            ["bash", "-n", "-c", script], capture_output=True, text=True, check=False
        )
        assert parsed.returncode == 0, parsed.stderr
        for path in re.findall(r"(deploy/[\w./-]+)", block):
            assert (REPOSITORY / path).is_file(), path


@pytest.mark.parametrize("name", GUIDES)
def test_links_of_a_guide_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", GUIDES[name])
    assert links
    for link in links:
        assert (REPOSITORY / "docs" / link).exists(), link


def test_codes_in_the_guides_are_codes_of_the_program() -> None:
    known = set()
    for folder in ("client", "common", "server"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            known |= set(re.findall(r"\"(E-[A-Z-]+)\"", file.read_text()))
    for guide in GUIDES.values():
        for code in re.findall(r"\bE-[A-Z]+(?:-[A-Z]+)*\b", guide):
            assert code in known or code == "E-REPLY", code
