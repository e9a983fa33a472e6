"""What may run and what may be read: no code from data (THREATS.md T5, T17), and only pinned wheels (T20)."""

import ast
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from flwr.app import Array, ArrayRecord
from packaging.utils import canonicalize_name

from client.canary.planted import planted_of
from client.evidence import kept_scores, scores_file
from client.readers import reader_of
from common.arrays import Arrays
from common.errors import (
    CheckpointError,
    DataError,
    MessageError,
    ModelError,
    ProtocolError,
    RunError,
)
from common.files import sha256
from common.judging.binary import Binary
from common.messages import MAGIC, TrainRequest, decode, encode
from common.protocol import StudyProtocol, parse_protocol
from common.records import plain_arrays
from common.tasks import task_named
from common.weights import load_weights
from deploy import sbom, wheelhouse
from server.checkpoint import Checkpoints, State
from server.initial import initial_arrays

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("client", "common", "server", "simulation")

# --- our own code: nothing that makes code of data, nothing that starts another program --------------

CLIENT_APP = ("client.app", "client.flower_task", "client.vault")
HOSPITAL = (
    *CLIENT_APP,
    *("client.relay", "client.vault_process", "client.node", "client.__main__"),
    "client.guard.sitecustomize",  # Python imports it by itself in the relay's processes
)

FORBIDDEN = {
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__")),
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"),
    *("torch.load", "torch.serialization", "torch.jit.load", "torch.package", "torch.hub"),
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "yaml.Loader"),
    *("subprocess", "multiprocessing", "pty", "os.system", "os.popen", "os.startfile"),
    *(f"os.{name}" for name in dir(os) if re.match("exec|spawn|posix_spawn", name)),
    *("runpy", "imp", "code", "codeop", "importlib.util", "importlib.__import__"),
    *("numpy.load", "importlib.import_module"),  # but for the calls that `_is_harmless` knows
    "sys.modules",  # to take a module out of it; who looks whether one is there uses `get`
}

# (file, name) -> why it has to be. An entry that nothing needs any more fails the test too.
ALLOWED = {
    (
        "client/canary/battery.py",
        "subprocess",
    ): "starts `check --canary`'s own process: this program",
    ("client/guard/sitecustomize.py", "importlib.util"): (
        "imports the machine's own sitecustomize, which Python would have imported in its place"
    ),
    (
        "client/relay.py",
        "subprocess",
    ): "starts the executor beside the SuperNode: this same program",
    (
        "client/walls.py",
        "subprocess",
    ): "tries whether the relay's user could open the patients' files",
    ("common/supervisor.py", "subprocess"): "starts vault and relay and keeps them alive",
    (
        "client/canary/planted/__init__.py",
        "importlib.import_module",
    ): "opens the module of a task that `common.tasks` found in its own folder",
    (
        "client/looks/__init__.py",
        "importlib.import_module",
    ): "opens the module that is named after the one in which the study's judge is written",
}

# What the ClientApp too may do, since a study's task picks a module; `closure` has all that it may pick.
BY_TASK = {
    (
        "common/tasks/__init__.py",
        "importlib.import_module",
    ): "opens a module that it found in its own folder",
    (
        "client/readers/__init__.py",
        "importlib.import_module",
    ): "opens the module of a task that `common.tasks` found in its own folder",
}


def module_files(root: Path) -> dict[str, Path]:
    """Every module of ours under `root`, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def closure(root: Path, entries: Iterable[str]) -> dict[str, Path]:
    """The modules of ours that run when `entries` do: by imports, wherever in a file they stand.

    Also by a text that is a module's name, since `python -m NAME` is how processes are started, and by
    one that begins modules' names up to a dot, since f"PACKAGE.{task}" picks any of them.
    """
    files = module_files(root)
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = files[name]
        package = name if files[name].name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(parsed(files[name])):
            if isinstance(node, ast.Constant) and "." in (text := str(node.value)):
                started = (text, f"{text}.__main__")
                waiting += [way for way in started if way in files]
                waiting += [way for way in files if text.endswith(".") and way.startswith(text)]
            for other in imported(node, package):
                parts = other.split(".")
                ways = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
                waiting += [way for way in ways if way in files]
    return found


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imported(node: ast.AST, package: str) -> list[str]:
    """The dotted names of modules that `node`, in a module of `package`, may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: 1 - node.level or None] if node.level else []
        base = ".".join([*above, node.module] if node.module else above)
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return []


class Finder(ast.NodeVisitor):
    """Collects what of `FORBIDDEN` a file names, under whatever alias, called or not."""

    def __init__(self, tree: ast.AST) -> None:
        self.found: set[str] = set()
        self._names: dict[str, str] = {"__builtins__": "builtins"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    self._names[alias.asname or whole] = whole
                    self._note(alias.name)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    dotted = f"{node.module}.{alias.name}"
                    self._names[alias.asname or alias.name] = dotted
                    self._note(dotted)
                    if alias.name == "*":
                        self._note_below(str(node.module))
        self.visit(tree)

    def _note(self, dotted: str | None) -> None:
        if dotted and not dotted.startswith("sys.modules"):
            self.found |= {bad for bad in FORBIDDEN if f"{dotted}.".startswith(f"{bad}.")}

    def _note_below(self, module: str) -> None:
        """Whatever is forbidden of `module` may be meant."""
        self.found |= {bad for bad in FORBIDDEN if bad.startswith(f"{module}.")}

    def _dotted(self, node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            own = f"builtins.{node.id}" if f"builtins.{node.id}" in FORBIDDEN else None
            return self._names.get(node.id, own)
        if isinstance(node, ast.Attribute):
            base = self._dotted(node.value)
            return base and f"{base}.{node.attr}"
        if isinstance(node, ast.Call) and _is_named(node.func, "getattr") and len(node.args) > 1:
            base, name = self._dotted(node.args[0]), node.args[1]
            if base and isinstance(name, ast.Constant) and isinstance(name.value, str):
                return f"{base}.{name.value}"
        return None

    def visit_Name(self, node: ast.Name) -> None:
        self._note(self._dotted(node))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._note(self._dotted(node))
        if node.attr == "__dict__" and (module := self._dotted(node.value)):
            self._note_below(module)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load) and self._dotted(node.value) == "sys.modules":
            self.found.add("sys.modules")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._note(self._dotted(node))
        dotted = self._dotted(node.func)
        if any(_is_named(node.func, name) for name in ("getattr", "vars")) and node.args:
            named = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if not named and (module := self._dotted(node.args[0])):
                self._note_below(module)
        harmless = _is_harmless(dotted, node)
        for child in ast.iter_child_nodes(node):
            if not (harmless and child is node.func):
                self.visit(child)


def _is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_harmless(dotted: str | None, call: ast.Call) -> bool:
    """Whether a call names its module in so many words, or reads arrays and surely no objects."""
    constants = [arg for arg in call.args if isinstance(arg, ast.Constant)]
    if dotted == "importlib.import_module":
        return len(call.args) == len(constants) == 1 and not call.keywords
    if dotted == "numpy.load":
        said = {word.arg: word.value for word in call.keywords}
        pickled = said.get("allow_pickle")
        return (
            len(call.args) <= 2
            and None not in said
            and isinstance(pickled, ast.Constant)
            and pickled.value is False
        )
    return False


def findings(root: Path, entries: Iterable[str]) -> set[tuple[str, str]]:
    return {
        (str(file.relative_to(root)), name)
        for file in closure(root, entries).values()
        for name in forbidden_in(file)
    }


@cache
def forbidden_in(file: Path) -> set[str]:
    return Finder(parsed(file)).found


def test_the_client_app_and_all_below_it_run_no_code_from_data_and_no_program() -> None:
    inside = closure(REPOSITORY, CLIENT_APP)
    assert {"common.messages", "common.records", "client.ledger", "client.training"} <= set(inside)
    assert {"common.tasks.nodule_classification", "client.data.image_folder"} <= set(inside)
    assert findings(REPOSITORY, CLIENT_APP) == set(BY_TASK)


@pytest.mark.parametrize(
    "name",
    ["os", "task", "nodule-classification.study", "../tasks/risk", "common.tasks.risk", "", 3],
)
def test_a_protocol_names_a_task_and_no_other_module(name: object) -> None:
    before = set(sys.modules)
    with pytest.raises(ProtocolError, match="must be one of"):
        task_named(name)
    for picked in (reader_of, planted_of):
        with pytest.raises(KeyError):
            picked(str(name))
    assert set(sys.modules) == before


def test_what_else_a_hospital_runs_does_so_where_it_is_allowed_and_nowhere_else() -> None:
    inside = closure(REPOSITORY, HOSPITAL)
    assert {"client.walls", "common.supervisor", "common.executor", "client.check"} <= set(inside)
    assert not {name for name in inside if name.split(".")[0] in ("server", "simulation")}
    assert findings(REPOSITORY, HOSPITAL) == {*ALLOWED, *BY_TASK}


@pytest.mark.slow
def test_what_python_loads_is_what_reading_the_imports_found() -> None:
    entries = [name for name in HOSPITAL if "sitecustomize" not in name]  # it would end the process
    program = f"import sys, {', '.join(entries)}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {name for name in loaded if name.split(".")[0] in PACKAGES}
    assert len(ours) > 30
    assert ours <= set(closure(REPOSITORY, HOSPITAL))


CAUGHT = {
    "eval('1')": "builtins.eval",
    "run = exec": "builtins.exec",
    "import builtins\nbuiltins.eval('1')": "builtins.eval",
    "import builtins as b\ngetattr(b, 'exec')('1')": "builtins.exec",
    "__builtins__.eval('1')": "builtins.eval",
    "from builtins import compile as c": "builtins.compile",
    "vars(__builtins__)['eval']('1')": "builtins.eval",
    "import builtins\nbuiltins.__dict__['eval']('1')": "builtins.eval",
    "import builtins\nname = 'ev' + 'al'\ngetattr(builtins, name)('1')": "builtins.eval",
    "__import__('pickle')": "builtins.__import__",
    "import pickle": "pickle",
    "import pickle as p": "pickle",
    "from pickle import loads as read": "pickle",
    "def f():\n    import cloudpickle": "cloudpickle",
    "class A:\n    from dill import load": "dill",
    "import marshal, json": "marshal",
    "import shelve": "shelve",
    "import torch\ntorch.load('x')": "torch.load",
    "import torch as t\nt.load('x')": "torch.load",
    "from torch import load": "torch.load",
    "from torch import *": "torch.load",
    "import torch\ngetattr(torch, 'load')('x')": "torch.load",
    "import torch.nn\ntorch.load('x')": "torch.load",
    "import torch\nread = torch.load": "torch.load",
    "from torch.serialization import load": "torch.serialization",
    "import torch\ntorch.jit.load('x')": "torch.jit.load",
    "from torch import jit\njit.load('x')": "torch.jit.load",
    "import numpy as np\nnp.load('x', allow_pickle=True)": "numpy.load",
    "import numpy as np\nnp.load('x', None, True)": "numpy.load",
    "import numpy as np\nmay = True\nnp.load('x', allow_pickle=may)": "numpy.load",
    "import numpy as np\nnp.load('x', **{'allow_pickle': True})": "numpy.load",
    "import numpy as np\nnp.load('x')": "numpy.load",
    "import numpy\nread = numpy.load": "numpy.load",
    "import yaml\nyaml.load('x', yaml.SafeLoader)": "yaml.load",
    "import subprocess": "subprocess",
    "from subprocess import run": "subprocess",
    "import os\nos.system('x')": "os.system",
    "from os import popen as p": "os.popen",
    "import os\nos.execv('x', [])": "os.execv",
    "import pty": "pty",
    "import importlib\nimportlib.import_module('a' + 'b')": "importlib.import_module",
    "from importlib import import_module as i\ni(name)": "importlib.import_module",
    "import sys\nsys.modules['pick' + 'le'].loads(b'')": "sys.modules",
}


@pytest.mark.parametrize("text", CAUGHT)
def test_each_forbidden_thing_is_found_under_any_name(text: str) -> None:
    assert CAUGHT[text] in Finder(ast.parse(text)).found


@pytest.mark.parametrize(
    "text",
    [
        "import re\nre.compile('x')",
        "model.eval()",
        "import json\njson.load(file)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import importlib\nimportlib.import_module('common.files')",
        "import os\nos.fork()",
        "from safetensors.numpy import load\nload(b'')",
        "value = getattr(protocol, name)",
    ],
)
def test_what_is_no_such_thing_is_left_alone(text: str) -> None:
    assert Finder(ast.parse(text)).found == set()


@pytest.mark.parametrize(
    "line",
    [
        "def f():\n    from common.deep import thing",
        "def f():\n    import common.deep",
        "from .other import more",
        "from . import other",
        "command = ['python', '-m', 'client.other']",
    ],
)
def test_a_forbidden_thing_is_found_through_any_import(line: str, tmp_path: Path) -> None:
    for name, text in (
        ("client/__init__", ""),
        ("client/app", line),
        ("client/other", "import common.deep"),
        ("common/__init__", ""),
        ("common/deep", "import pickle\nthing = 1"),
        ("common/unused", "import marshal"),
    ):
        file = (tmp_path / name).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert findings(tmp_path, ["client.app"]) == {("common/deep.py", "pickle")}


# --- files and messages: an evil pickle under a good name -------------------------------------------


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.marker, "executed")


def _pickled(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def _of_torch(bomb: Bomb) -> bytes:
    data = io.BytesIO()
    torch.save({"classifier.bias": bomb}, data)
    return data.getvalue()


def _npy(bomb: Bomb) -> bytes:
    data = io.BytesIO()
    np.save(data, np.array([bomb], dtype=object), allow_pickle=True)
    return data.getvalue()


def _npz(bomb: Bomb) -> bytes:
    data = io.BytesIO()
    objects: Any = np.array([bomb], dtype=object)
    np.savez(data, score=objects, label=objects, patient=objects)
    return data.getvalue()


EVIL: dict[str, tuple[Callable[[Bomb], bytes], Callable[[bytes], object]]] = {
    "a pickle": (_pickled, pickle.loads),
    "torch's zip": (_of_torch, lambda d: torch.load(io.BytesIO(d), weights_only=False)),
    "an .npy": (_npy, lambda d: np.load(io.BytesIO(d), allow_pickle=True)),
    "an .npz": (_npz, lambda d: np.load(io.BytesIO(d), allow_pickle=True)["score"]),
}


@pytest.fixture(params=EVIL)
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    """Bytes that write a file when they are unpickled, as is tried; nobody else may have done so."""
    make, explode = EVIL[request.param]
    marker = tmp_path / "marker"
    data = make(Bomb(marker))
    explode(data)
    marker.unlink()  # the bomb works
    yield data
    assert not marker.exists()


STUDY = """
study = "small"
rounds = 2
images = {{ classes = ["no", "yes"], size = 16, mean = 0.4 }}
model = {{ initial-model = "{initial}" }}
training = {{ steps-per-round = 2, learning-rate = 0.5, sampling-rate = 0.5, views-per-patient = 2 }}
participation = {{ quorum = 1, deadline-seconds = 120 }}
hospitals = [{{ name = "north", nominal-patients = 10 }}]
"""


def study(initial: Path | str = "random") -> StudyProtocol:
    return parse_protocol(STUDY.format(initial=initial))


def test_an_evil_initial_model_is_refused(evil: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(evil)
    with pytest.raises(RunError, match=r"cannot read model.initial-model: expected .*safetensors"):
        initial_arrays(study(path))
    with pytest.raises(ProtocolError):
        study(path.with_suffix(".npz"))
    with pytest.raises(ModelError):  # as a rehearsal reads what it wrote before
        load_weights(path)


def test_an_evil_checkpoint_is_passed_over_and_refused_where_there_is_no_other(
    evil: bytes, tmp_path: Path
) -> None:
    """Even one whose description was made to fit."""
    arrays: Arrays = {"a.bias": np.ones(2, np.float32)}
    for server_round in (0, 1):
        Checkpoints(tmp_path, study()).save(State(round=server_round, arrays=arrays))
    for server_round, left in ((1, 0), (0, None)):
        stem = tmp_path / "checkpoints" / f"round-{server_round:06d}"
        about = json.loads(stem.with_suffix(".json").read_bytes())["about"]
        about["sha256"] = sha256(evil)
        seal = sha256(json.dumps(about, sort_keys=True).encode())
        stem.with_suffix(".json").write_text(json.dumps({"about": about, "sha256": seal}))
        stem.with_suffix(".safetensors").write_bytes(evil)
        if left is None:
            with pytest.raises(CheckpointError, match=r"whole .*expected .*in the weights"):
                Checkpoints(tmp_path, study()).load()
        else:
            found = Checkpoints(tmp_path, study()).load()
            assert found is not None
            assert found.round == left


def test_evil_scores_at_a_hospital_are_refused(evil: bytes, tmp_path: Path) -> None:
    path = scores_file(tmp_path, "a" * 64, 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(evil)
    with pytest.raises(DataError):
        kept_scores(tmp_path, "a" * 64, 1, Binary())


def test_an_evil_frame_is_refused(evil: bytes) -> None:
    whole = encode(TrainRequest(protocol="", round=1, arrays={"a": np.ones(2, np.float32)}))
    start = len(MAGIC) + 4
    header = whole[: start + int.from_bytes(whole[len(MAGIC) : start], "little")]
    for data in (evil, MAGIC + evil, header + evil, whole + evil):
        with pytest.raises(MessageError):
            decode(data)


def test_an_evil_array_of_flowers_is_refused(evil: bytes) -> None:
    for stype in ("numpy.ndarray", "pickle"):
        array = Array(dtype="float32", shape=(1,), stype=stype, data=evil)
        with pytest.raises(MessageError, match=r"cannot be read|archive"):
            plain_arrays(ArrayRecord({"a": array}))


# --- what is installed: pinned, hashed, described ---------------------------------------------------


def pins(text: str) -> dict[str, str]:
    lines = [line.partition("==") for line in text.splitlines() if "==" in line]
    return {canonicalize_name(name): pin for name, _, pin in lines}


def test_every_part_of_the_product_is_pinned() -> None:
    pinned = pins((REPOSITORY / "constraints.txt").read_text())
    parts = set(sbom.needs()) - {"intramural"}
    assert {"torch", "flwr", "ray", "setuptools"} <= parts  # deep, and by an extra
    assert parts <= set(pinned), parts - set(pinned)
    assert not {"pytest", "cyclonedx-python-lib", "ruff"} & parts


def test_the_bill_of_materials_is_a_valid_one_and_whole() -> None:
    digests = {"torch": "0" * 64, "intramural": "f" * 64}
    text = make_outputter(
        sbom.bill(digests), OutputFormat.JSON, SchemaVersion.V1_6
    ).output_as_string()
    judge = JsonStrictValidator(SchemaVersion.V1_6)
    assert judge.validate_str(text) is None
    assert judge.validate_str(text.replace('"library"', '"book"', 1)) is not None  # it looks
    bill = json.loads(text)
    parts = {part["purl"]: part for part in bill["components"]}
    product = bill["metadata"]["component"]
    assert product["purl"] == f"pkg:pypi/intramural@{version('intramural')}"
    assert product["hashes"] == [{"alg": "SHA-256", "content": "f" * 64}]
    torch_part = parts[f"pkg:pypi/torch@{version('torch')}"]
    assert torch_part["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    assert "Apache-2.0" in torch_part["licenses"][0]["expression"]
    depends = {entry["ref"]: entry.get("dependsOn", []) for entry in bill["dependencies"]}
    reached, waiting = set(), [product["bom-ref"]]
    while waiting:
        reached.add(ref := waiting.pop())
        waiting += [below for below in depends[ref] if below not in reached]
    assert reached == set(parts) | {product["bom-ref"]}


def wheel(folder: Path, name: str, needs: str = "") -> Path:
    """A wheel with one empty module."""
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", about)
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def house(tmp_path: Path) -> Path:
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    wheel(folder, "upper_part", "Requires-Dist: lower-part\n")
    wheel(folder, "lower_part")
    (folder / wheelhouse.REQUIREMENTS).write_text(wheelhouse.requirements(folder))
    return folder


def install(house: Path) -> subprocess.CompletedProcess[str]:
    """What `make install-offline` runs, tried without installing."""
    planned = subprocess.run(
        ["make", "--dry-run", "install-offline", f"WHEELHOUSE={house}"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout.replace("\\\n", "")  # fmt: skip
    (command,) = [line for line in planned.splitlines() if " pip install " in line]
    words = command.split()[1:]
    return subprocess.run(
        [sys.executable, *words, "--dry-run", "--target", house / "nowhere"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_requirements_of_a_wheelhouse_name_its_files_and_no_address(house: Path) -> None:
    text = (house / wheelhouse.REQUIREMENTS).read_text()
    assert "://" not in text
    assert pins(text).keys() == {"lower-part", "upper-part"}
    for path in house.glob("*.whl"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = canonicalize_name(path.name.partition("-")[0])
        assert f"{name}==1.0 --hash=sha256:{digest}\n" in text
        assert sbom.hashes(text)[name] == digest


@pytest.mark.slow
def test_an_install_takes_the_wheelhouse_as_it_was_made_and_nothing_else(house: Path) -> None:
    done = install(house)
    assert done.returncode == 0, done.stderr
    (lower,) = house.glob("lower_part*")
    whole = lower.read_bytes()
    lower.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    changed = install(house)
    assert changed.returncode != 0
    assert "DO NOT MATCH THE HASHES" in changed.stderr


@pytest.mark.slow
def test_a_part_that_is_not_pinned_is_not_installed(house: Path) -> None:
    requirements = house / wheelhouse.REQUIREMENTS
    lines = requirements.read_text().splitlines(keepends=True)
    requirements.write_text("".join(line for line in lines if not line.startswith("lower")))
    done = install(house)
    assert done.returncode != 0
    assert "lower-part" in done.stderr
