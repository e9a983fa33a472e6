"""Bare Flower on the workload of consortium.py: superlink, superexec and supernodes with TLS and node keys.

The ClientApp trains by Opacus' hooks with a fixed sigma, the ServerApp is FedAvg. No vault, ledger,
calibration or report.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import httpx
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from common import outbound
from server.home import Home
from server.register import keep_register
from tests.benchmarks.watching import Watch, loaded
from tests.consortium import BIN, Consortium, free_port, threads

BARE = {
    "pyproject.toml": """
[project]
name = "bare"
version = "1.0.0"
description = "The same workload by Flower alone."
license = "Apache-2.0"
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "bare.server_app:app"
clientapp = "bare.client_app:app"
[tool.flwr.app.config]
protocol = ""
times = ""
evaluate = 0.0
""",
    "bare/__init__.py": "",
    "bare/server_app.py": """
import time
from pathlib import Path
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from common.models import build_model
from common.protocol import load_protocol
app = ServerApp()
@app.main()
def main(grid, context):
    protocol = load_protocol(Path(context.run_config["protocol"]))
    def note(server_round, arrays):
        with open(context.run_config["times"], "a") as file:
            file.write(f"{time.time()}\\n")
        return MetricRecord({"round": server_round})
    n = len(protocol.hospitals)
    share = context.run_config["evaluate"]
    strategy = FedAvg(fraction_evaluate=share, min_train_nodes=n, min_available_nodes=n,
                      min_evaluate_nodes=n if share else 0)
    first = ArrayRecord(build_model(protocol.model.name, 1, 2).state_dict())
    strategy.start(grid, first, num_rounds=protocol.rounds, evaluate_fn=note)
""",
    "bare/client_app.py": """
from pathlib import Path
import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset
from client.data.image_folder import open_cohort
from common.models import build_model
from common.protocol import load_protocol
app = ClientApp()
def prepared(message, context, part):
    torch.set_num_threads(1)
    protocol = load_protocol(Path(context.run_config["protocol"]))
    cohort = open_cohort(Path(context.node_config["data"]), protocol.images, None)
    model = build_model(protocol.model.name, 1, 2)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    patients = getattr(cohort, part)
    images = patients.views(np.arange(len(patients.labels)))
    return model, TensorDataset(images, torch.from_numpy(patients.labels)), len(images)
@app.train()
def train(message, context):
    model, data, count = prepared(message, context, "training")
    wrapped, optimizer, loader = PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(data, batch_size=32), noise_multiplier=0.884, max_grad_norm=1.0)
    for images, labels in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(wrapped(images), labels).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": count})
    arrays = ArrayRecord(model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
@app.evaluate()
def evaluate(message, context):
    model, data, count = prepared(message, context, "validation")
    with torch.no_grad():
        right = (model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean().item()
    metrics = MetricRecord({"num-examples": count, "right": right})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
""",
}


def bare(consortium: Consortium, label: str, *, evaluate: bool) -> None:
    """The same by Flower's own processes, with the keys and certificates that were provisioned."""
    home, folder, port = Home(consortium.home), consortium.folder, free_port()
    for name, text in BARE.items():
        file = folder / "bareapp" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    secret, address, ca = folder / "secret", f"127.0.0.1:{port}", str(home.ca)
    secret.write_text(os.urandom(32).hex())
    started: list[subprocess.Popen[bytes]] = []

    def flower(name: str, *words: str) -> subprocess.Popen[bytes]:
        own = folder / "flwr" / name
        own.mkdir(parents=True, exist_ok=True)
        (own / "config.toml").write_text(
            f'[superlink.deploy]\naddress = "{address}"\nroot-certificates = "{ca}"\n'
        )
        path = f"{BIN}:{os.environ['PATH']}"
        environment = {**threads(), **outbound.SWITCHES, "FLWR_HOME": str(own), "PATH": path}
        with (folder / f"{name}.said").open("ab") as said:
            process = subprocess.Popen(
                [str(BIN / words[0]), *words[1:]],
                env=environment, stdout=said, stderr=subprocess.STDOUT, cwd=folder,
            )  # fmt: skip
        started.append(process)
        return process

    def superlink() -> subprocess.Popen[bytes]:
        return flower(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(port),
            "--ssl-ca-certfile", ca, "--ssl-certfile", str(home.tls / "internal.crt"),
            "--ssl-keyfile", str(home.tls / "internal.key"), "--enable-supernode-auth",
            "--database", str(folder / "state.db"), "--disable-runtime-dependency-installation",
            "--isolation", "process", "--superexec-auth-secret-file", str(secret),
        )  # fmt: skip

    def answers() -> bool:
        try:
            keep_register(control, home.roster)
        except httpx.HTTPError:
            return False
        return True

    control = ControlHttpClient.from_server_address(
        address, insecure=False, root_certificates=home.ca.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )  # fmt: skip
    times = folder / "times"
    with loaded(label), Watch() as watch, ended(started, watch):
        superlink()  # a first life, in which the nodes are registered
        consortium.until(answers, 60, "the superlink answers")
        end_all(started)
        begun = time.time()
        watch.roots[superlink().pid] = "coordinator"
        watch.roots[
            flower(
                "superexec", "flower-superexec", "--runtime-api-address", address,
                "--root-certificates", ca, "--superexec-auth-secret-file", str(secret),
            ).pid
        ] = "coordinator"  # fmt: skip
        for name in consortium.study.hospital_names:
            process = flower(
                name, "flower-supernode", "--superlink", address, "--root-certificates", ca,
                "--auth-supernode-private-key", str(consortium.hospital(name) / "hospital.key"),
                "--port", str(free_port()),
                "--node-config", f'data="{folder / "phantoms" / name / "data"}"',
            )  # fmt: skip
            watch.roots[process.pid] = name
        consortium.until(answers, 60, "the superlink answers")
        config = f"protocol='{consortium.protocol}' times='{times}' evaluate={float(evaluate)}"
        run = flower(
            "run", "flwr", "run", str(folder / "bareapp"), "deploy", "--stream",
            "--run-config", config,
        )  # fmt: skip
        run.wait(300)
        end = time.time()
        watch.sample()
        said = (folder / "run.said").read_text()
        trained = said.count(
            f"aggregate_train: Received {len(consortium.study.hospitals)} results and 0"
        )
        assert trained == consortium.study.rounds, said
        at = [float(line) for line in times.read_text().splitlines()]
        rounds = " ".join(f"{b - a:.1f}" for a, b in pairwise(at))
        print(
            f"{end - begun:6.1f} s  rounds {rounds}  memory {watch.memory()}  CPU {watch.cpu:.0f} s\n"
            f"  CPU by process: {watch.roles()}\n"
            f"  rounds began {at[0] - begun:.1f}, ended {at[-1] - begun:.1f}"
        )


@contextmanager
def ended(started: list[subprocess.Popen[bytes]], watch: Watch) -> Iterator[None]:
    """End `started`, and what outlives them, whatever happens."""
    try:
        yield
    finally:
        end_all(started)
        watch.end_the_rest()


def end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
