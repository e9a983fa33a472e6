"""The house as it was drawn: imports, wheel, README."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.tasks import module_of, names

TASKS = names()
PACKAGES = ("server", "client", "common", "simulation")


def run(*command: str | Path, cwd: Path, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def tracked(repository: Path) -> list[str]:
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=repository)
    return [name for name in listed.stdout.splitlines() if (repository / name).is_file()]


def copy_of(repository: Path, folder: Path) -> Path:
    for name in tracked(repository):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, target)
    return folder


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(Path(sys.executable).parent / "lint-imports", "--no-cache", cwd=folder)


def test_the_import_contract_holds(repository: Path) -> None:
    checked = lint_imports(repository)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "file",
    [
        "client/ledger.py",
        "client/egress.py",
        "client/vault.py",
        "client/privacy/engine.py",
        "client/privacy/book_keeping.py",
        "server/rounds.py",
        "server/strategy.py",
        "server/admission.py",
    ],
)
def test_what_all_tasks_share_names_none_of_them(repository: Path, file: str) -> None:
    text = (repository / file).read_text()
    named = {name for task in TASKS for name in (task, module_of(task), task.split("-")[0])}
    assert {name for name in named if re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("client/ledger.py", "import torch"),
        ("client/policy.py", "from client.readers import open_cohort"),
        ("client/app.py", "from client.vault import Vault"),
        ("client/training.py", "import flwr"),
        ("server/rounds.py", "from client.policy import SitePolicy"),
        ("common/arrays.py", "import server.rounds"),
        ("server/app.py", "import opacus"),
        ("server/executor.py", "import torch"),
        ("client/flower_task.py", "from client.policy import SitePolicy"),
        ("client/vault_process.py", "import flwr"),
        ("server/gateway.py", "import flwr"),
    ],
)
def test_a_planted_violation_breaks_the_contract(
    tmp_path: Path, repository: Path, file: str, line: str
) -> None:
    copy = copy_of(repository, tmp_path / "copy")
    text = (copy / file).read_text()
    (copy / file).write_text(f"{line}\n{text}")
    environment_free = lint_imports(copy)
    assert environment_free.returncode != 0
    assert "BROKEN" in environment_free.stdout


def test_the_wheel_holds_the_four_packages_and_nothing_else(
    tmp_path: Path, repository: Path
) -> None:
    copy = copy_of(repository, tmp_path / "copy")
    built = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, cwd=copy
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {n for n in archive.namelist() if ".dist-info/" not in n}
    expected = {
        name
        for name in tracked(repository)
        if name.split("/")[0] in PACKAGES
        and (name.endswith(".py") or name.startswith(("common/examples/", "common/pretrained/")))
    }
    assert inside == expected
    assert "common/examples/lung-nodules.toml" in inside
    assert "common/pretrained/compact-cnn-32px.safetensors" in inside


def readme_tree(repository: Path) -> set[str]:
    text = (repository / "README.md").read_text()
    block = text.split("<!-- tree:")[1].split("```")[1]
    found, folder = set(), ""
    for line in block.strip().splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            found.add(folder + name)
        else:
            folder = name
            found.add(name)
    return found


def test_the_readme_tree_is_the_tree_on_disk(repository: Path) -> None:
    on_disk = {"tests/", "docs/", "deploy/"}
    for name in tracked(repository):
        parts = name.split("/")
        if parts[0] in PACKAGES and not name.endswith("__init__.py"):
            on_disk.add(f"{parts[0]}/")
            on_disk.add(name if len(parts) == 2 else f"{parts[0]}/{parts[1]}/")
    assert readme_tree(repository) == on_disk


def test_links_of_the_readme_lead_somewhere(repository: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (repository / "README.md").read_text())
    assert links
    for link in links:
        assert (repository / link).exists(), link


def shell_commands(repository: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.strip().splitlines()]


def test_every_option_in_the_readme_exists(repository: Path) -> None:
    shown = run(sys.executable, "-m", "simulation", "--help", cwd=repository)
    assert shown.returncode == 0
    lines = [c for c in shell_commands(repository) if "intramural-simulate" in c]
    assert lines
    for option in {word for line in lines for word in line.split() if word.startswith("--")}:
        assert option in shown.stdout or option == "--help", option


def test_make_test_is_the_whole_suite(repository: Path) -> None:
    targets = ("test", "test-fast", "test-crash", "check", "bench")
    planned = run("make", "--dry-run", *targets, cwd=repository)
    assert planned.returncode == 0, planned.stderr
    assert (
        '-m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not crash"\n'
        in planned.stdout
    )
    assert "-m pytest -q -m crash\n" in planned.stdout
    assert "make simulate" in shell_commands(repository)
    assert "make test" in shell_commands(repository)


@pytest.mark.slow
@pytest.mark.e2e
def test_make_simulate_ends_green_with_privacy_on(tmp_path: Path, repository: Path) -> None:
    """The README's first command, as it stands, in a process of its own; only the folder differs."""
    if not (repository / ".venv" / ".ready").exists():
        pytest.skip("make has not made this .venv (tests run from another environment)")
    done = run(
        "make", "simulate", f"OPTIONS=--runs {tmp_path} --name first", cwd=repository, timeout=290
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert summary["stopped"] == "finished"
    assert summary["rounds"] == 10
    assert summary["test_mode_noise"] is False
    for figures in summary["hospitals"].values():
        assert 7.9 < figures["epsilon"] <= 8.0
        assert figures["delta"] == 1e-5
        assert figures["local_only_pooled_auroc"] is not None
    assert (tmp_path / "first" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "first" / "hospitals" / "north" / "site.toml").stat().st_mode & 0o077 == 0


GATE = """
import json, sys
import client.policy, client.ledger, client.egress
own = {n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("client", "common")}
print(json.dumps([own, sorted({n.split(".")[0] for n in sys.modules})]))
"""


def statements(file: str) -> int:
    """Statements of a file; a docstring, a comment and a blank line are none."""
    tree = ast.parse(Path(file).read_text())
    found = sum(isinstance(node, ast.stmt) for node in ast.walk(tree))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, documented))
    return found - sum(ast.get_docstring(node) is not None for node in nodes)


def test_the_gate_can_be_read_in_one_sitting(repository: Path) -> None:
    """What is really loaded with policy, ledger and egress: ours is small, others' do not learn or talk.

    In lines of code (no blank line, comment or docstring) it is a little over 1,000, of which a quarter
    are the sentences of its refusals and its imports: docs/decisions.md.
    """
    loaded = run(sys.executable, "-c", GATE, cwd=repository)
    assert loaded.returncode == 0, loaded.stderr
    own, everything = json.loads(loaded.stdout)
    assert set(own) == {
        "client", "client.policy", "client.ledger", "client.ledger_file", "client.chain",
        "client.egress", "client.egress_log",
        "common", "common.arrays", "common.documents", "common.errors", "common.files",
        "common.tasks",
    }  # fmt: skip
    others = {"torch", "torchvision", "opacus", "flwr", "sklearn", "scipy", "PIL", "ssl", "http"}
    assert others.isdisjoint(everything)
    size = sum(statements(file) for file in own.values())
    print(f"the gate has {size} statements")
    assert size < 900
