"""No line of a bundle runs in a guarded process, however it is found; the same lines run without."""

import os
import py_compile
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from client import guard

pytestmark = pytest.mark.slow  # all of them together

LEAVES_A_MARK = "import os\nopen(os.environ['MARK'], 'a').write({name!r} + '\\n')\n"


@dataclass(frozen=True)
class Host:
    """A relay's host with Flower's home, and the bundles in it; `mark` lists what of them ran."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def bundle(self) -> Path:
        return self.home / "apps" / "foreign.app.1.0.0.abcdef12"

    @property
    def thin(self) -> Path:
        return self.home / "apps" / "intramural.thin.1.0.0.12345678"

    @property
    def mark(self) -> Path:
        return self.folder / "mark"

    def run(
        self,
        *words: object,
        guarded: bool,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Python with `words`, with or without the guard."""
        self.mark.unlink(missing_ok=True)
        all_of_it = {name: v for name, v in os.environ.items() if not name.startswith("PYTHON")}
        all_of_it |= {"FLWR_HOME": str(self.home), "MARK": str(self.mark)}
        if guarded:
            all_of_it |= {"PYTHONPATH": str(guard.FOLDER)}
            all_of_it |= {guard.BUNDLES: str(self.home / "apps")}
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=cwd or self.folder,
            env=all_of_it | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ran(self) -> list[str]:
        """What left its mark in the last run."""
        return self.mark.read_text().split() if self.mark.exists() else []


def write(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LEAVES_A_MARK.format(name=name))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    write(host.bundle / "client" / "__init__.py", "client")
    write(host.bundle / "client" / "app.py", "client.app")
    for name in ("torch", "numpy", "flwr", "json", "sitecustomize", "__main__", "from_pth"):
        write(host.bundle / f"{name}.py", name)
    (host.bundle / "evil.pth").write_text("import from_pth\n")
    write(host.bundle / "space" / "inside.py", "space.inside")  # no __init__: a namespace package
    write(tmp_path / "source.py", "compiled")
    py_compile.compile(str(tmp_path / "source.py"), str(host.bundle / "compiled.pyc"))
    with zipfile.ZipFile(host.bundle / "packed.zip", "w") as packed:
        packed.writestr("zipped.py", LEAVES_A_MARK.format(name="zipped"))
        packed.writestr("deep/", "")
        packed.writestr("deep/inside.py", LEAVES_A_MARK.format(name="deep.inside"))
        packed.writestr("__main__.py", LEAVES_A_MARK.format(name="zip-main"))
    shutil.copy(host.bundle / "packed.zip", host.bundle / "packed.egg")
    host.thin.mkdir()
    (host.thin / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "link").symlink_to(host.bundle)
    (tmp_path / "link-to-apps").symlink_to(host.home / "apps")
    write(tmp_path / "outside" / "led_out.py", "led_out")
    (tmp_path / "outside" / "harmless.py").symlink_to(host.bundle / "torch.py")
    (host.bundle / "led_out.py").symlink_to(tmp_path / "outside" / "led_out.py")
    (host.bundle / "led.folder").symlink_to(tmp_path / "outside")
    return host


def tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def refused(host: Host, *words: object, python_path: str = str(guard.FOLDER)) -> str:
    """What a guarded process says, of which nothing ran and which left nothing in the bundles."""
    before = tree(host.home)
    done = host.run(*words, guarded=True, environment={"PYTHONPATH": python_path})
    assert host.ran() == []
    assert tree(host.home) == before  # no compiled files either
    return done.stderr


FIRST = "import sys; sys.path.insert(0, {entry!r}); import {module}"
BUNDLE = "home/apps/foreign.app.1.0.0.abcdef12"  # from the folder in which Python is started

MODULES = ["client", "client.app", "torch", "numpy", "flwr", "json", "from_pth", "compiled"]
MODULES += ["space.inside", "led_out"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_a_bundle_is_refused_by_any_name(host: Host, module: str) -> None:
    script = FIRST.format(entry=str(host.bundle), module=module)
    said = refused(host, "-c", script).strip().splitlines()[-1]
    assert said == f"ImportError: {guard.REFUSED}"  # no path, no name: this goes to the coordinator
    free = host.run("-c", script, guarded=False)
    assert module in host.ran(), free.stderr


WAYS = {
    "absolute": ("{bundle}", "torch"),
    "relative": (BUNDLE, "torch"),
    "up-and-down": (f"{BUNDLE}/../../apps/../../{BUNDLE}", "torch"),
    "link": ("link", "torch"),
    "absolute-link": ("{folder}/link", "torch"),
    "link-and-up": ("link/../foreign.app.1.0.0.abcdef12", "torch"),
    "link-to-apps": ("link-to-apps/foreign.app.1.0.0.abcdef12", "torch"),
    "zip": ("{bundle}/packed.zip", "zipped"),
    "relative-zip": (f"{BUNDLE}/packed.zip", "zipped"),
    "linked-zip": ("link/packed.zip", "zipped"),
    "egg": ("{bundle}/packed.egg", "zipped"),
    "namespace-in-zip": ("{bundle}/packed.zip", "deep.inside"),
    "linked-out": ("{bundle}/led.folder", "led_out"),
    "linked-out-twice": ("link/led.folder", "led_out"),
    "linked-in": ("outside", "harmless"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_module_of_a_bundle_is_refused_by_any_way(host: Host, way: str) -> None:
    entry, module = WAYS[way]
    entry = entry.format(bundle=host.bundle, folder=host.folder)
    script = FIRST.format(entry=entry, module=module)
    assert f"ImportError: {guard.REFUSED}" in refused(host, "-c", script)
    free = host.run("-c", script, guarded=False)
    assert len(host.ran()) == 1, free.stderr


SPEC = (
    "from importlib.util import find_spec, module_from_spec\n"
    "spec = find_spec('torch'); spec.loader.exec_module(module_from_spec(spec))"
)
STARTS: dict[str, tuple[str, ...]] = {
    "import": ("-c", "import torch"),  # sys.path begins with ''
    "python -m": ("-m", "torch"),
    "python folder": (".",),
    "python zip": ("packed.zip",),
    "runpy": ("-c", "import runpy; runpy.run_module('torch')"),
    "runpy folder": ("-c", "import runpy; runpy.run_path('.')"),
    "find_spec": ("-c", SPEC),
    "resolve_name": ("-c", "import pkgutil; pkgutil.resolve_name('torch:x')"),
    "site": ("-c", "import site; site.addsitedir('.')"),  # the only one who reads .pth files
    "child": (
        "-c",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])",
    ),
}


@pytest.mark.parametrize("way", STARTS)
def test_a_process_that_starts_in_a_bundle_runs_nothing_of_it(host: Host, way: str) -> None:
    before = tree(host.home)
    host.run(*STARTS[way], guarded=True, cwd=host.bundle)
    assert host.ran() == []
    assert tree(host.home) == before
    free = host.run(*STARTS[way], guarded=False, cwd=host.bundle)
    assert host.ran(), free.stderr


@pytest.mark.parametrize(("entry", "module"), [("", "space"), ("/packed.zip", "deep")])
def test_a_folder_of_a_bundle_is_no_package(host: Host, entry: str, module: str) -> None:
    """Python makes an empty one of it, to which anything could be added later."""
    script = FIRST.format(entry=f"{host.bundle}{entry}", module=module)
    assert f"ImportError: {guard.REFUSED}" in refused(host, "-c", script)
    assert host.run("-c", script, guarded=False).returncode == 0


def test_an_extension_of_a_bundle_is_refused(host: Host) -> None:
    extension = find_spec("_bisect")
    if extension is None or not extension.has_location or extension.origin is None:
        pytest.skip("this Python has _bisect built in")
    shutil.copy(extension.origin, host.bundle)
    (host.bundle / "json.py").unlink()  # which would be run for other reasons
    script = FIRST.format(entry=str(host.bundle), module="_bisect") + "; print(_bisect.__file__)"
    assert guard.REFUSED in refused(host, "-c", script)
    free = host.run("-c", script, guarded=False)
    assert free.stdout.startswith(str(host.bundle)), free.stderr


def test_a_part_of_a_package_cannot_be_brought(host: Host) -> None:
    """A namespace package that is installed, and of which the bundle has one more module."""
    write(host.folder / "outside" / "space" / "good.py", "space.good")
    script = (
        "import sys; sys.path.append('outside'); import space.good; "
        f"sys.path.insert(0, {str(host.bundle)!r}); import space.inside"
    )
    host.run("-c", script, guarded=True)
    assert host.ran() == ["space.good"]
    host.run("-c", script, guarded=False)
    assert host.ran() == ["space.good", "space.inside"]


def test_a_bundle_that_comes_later_is_refused_as_well(host: Host) -> None:
    shutil.rmtree(host.home)
    unpacks = (
        "import os, sys; os.makedirs('home/apps/later'); sys.path.insert(0, 'home/apps/later'); "
        "open('home/apps/later/brought.py', 'w').write('raise SystemExit(9)'); import brought"
    )
    done = host.run("-c", unpacks, guarded=True)
    assert f"ImportError: {guard.REFUSED}" in done.stderr
    shutil.rmtree(host.home)
    assert host.run("-c", unpacks, guarded=False).returncode == 9


FLOWER_LOADS = (
    "import sys\n"
    "from flwr.supercore.object_ref import load_app\n"
    "from flwr.clientapp.client_app import ClientApp, LoadClientAppError\n"
    "app = load_app(sys.argv[1], LoadClientAppError, sys.argv[2])\n"
    "print(isinstance(app, ClientApp), sys.modules['client'].__file__)"
)


def test_flower_loads_the_installed_relay_for_a_thin_bundle(host: Host) -> None:
    done = host.run("-c", FLOWER_LOADS, "client.app:app", host.thin, guarded=True)
    import client

    assert done.stdout.split() == ["True", client.__file__], done.stderr


def test_flower_loads_nothing_of_a_bundle_with_code(host: Host) -> None:
    said = refused(host, "-c", FLOWER_LOADS, "client.app:app", host.bundle)
    assert said.strip().splitlines()[-1] == f"ImportError: {guard.REFUSED}"
    host.run("-c", FLOWER_LOADS, "client.app:app", host.bundle, guarded=False)
    assert host.ran() == ["client", "client.app"]


def test_what_is_loaded_already_stays_in_use(host: Host) -> None:
    script = "import client.app; " + FIRST.format(entry=str(host.bundle), module="client.app")
    assert refused(host, "-c", script) == ""


@pytest.mark.parametrize("folder", [None, "", "home/apps"])
def test_without_a_bundle_folder_to_refuse_no_process_starts(
    host: Host, folder: str | None
) -> None:
    environment = {"PYTHONPATH": str(guard.FOLDER)}
    if folder is not None:
        environment[guard.BUNDLES] = folder
    done = host.run("-c", "print('started')", guarded=False, environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "must not start without its import guard: INTRAMURAL_BUNDLES is" in done.stderr


def test_the_machines_own_sitecustomize_comes_after(host: Host) -> None:
    own = host.folder / "machine" / "sitecustomize.py"
    write(own, "machine")
    own.write_text(own.read_text() + "import sys\nprint(type(sys.meta_path[0]).__name__)\n")
    path = f"{guard.FOLDER}:{own.parent}"
    asks = "import sitecustomize; print(sitecustomize.__file__)"
    done = host.run("-c", asks, guarded=True, environment={"PYTHONPATH": path})
    assert done.stdout.split() == ["BundleGuard", str(own)], done.stderr
    assert host.ran() == ["machine"]


def test_one_that_fails_leaves_the_guard_in_place(host: Host) -> None:
    own = host.folder / "machine" / "sitecustomize.py"
    own.parent.mkdir()
    own.write_text("raise RuntimeError('broken')")
    script = FIRST.format(entry=str(host.bundle), module="torch")
    said = refused(host, "-c", script, python_path=f"{guard.FOLDER}:{own.parent}")
    assert "broken" in said
    assert f"ImportError: {guard.REFUSED}" in said


def test_that_of_a_bundle_is_refused(host: Host) -> None:
    path = f"{guard.FOLDER}:{host.bundle}"
    assert guard.REFUSED in refused(host, "-c", "pass", python_path=path)
    host.run("-c", "pass", guarded=False, environment={"PYTHONPATH": str(host.bundle)})
    assert host.ran() == ["sitecustomize"]
