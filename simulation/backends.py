"""Where the hospitals of a rehearsal run: threads of this process, or Flower's engine on Ray."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ConfigRecordValues, Context

from client.app import Channel, make_app
from client.policy import load_policy
from client.vault import Vault
from server.app import Run
from simulation.cores import share_of_cores
from simulation.grid import LocalGrid, Transport, unchanged


@lru_cache(maxsize=256)
def vault_of(site: Path) -> Vault:
    """The vault under this `site.toml`, one in each process."""
    return Vault(load_policy(site))


class InProcess:
    """Finds a hospital's vault in this process: what `client.app.make_app` asks to be connected by.

    Between relay and vault pass the bytes of a typed request and reply, as over a socket.
    """

    def __init__(
        self, sites: Sequence[Path], threads: int, vault: Callable[[Path], Vault] = vault_of
    ) -> None:
        self._sites = list(sites)
        self._threads = threads
        self._vault = vault

    def __call__(self, context: Context) -> Channel:
        torch.set_num_threads(self._threads)
        return self._vault(self._sites[int(context.node_config["partition-id"])]).handle


def run_local(
    run: Run,
    sites: Sequence[Path],
    *,
    transport: Transport = unchanged,
    vault: Callable[[Path], Vault] = vault_of,
) -> None:
    """Carry `run` out in this process, as many hospitals at a time as there are cores.

    Small convolutions gain little from a second thread and lose much when other work is going on,
    so two hospitals side by side are faster than one after the other.
    """
    workers, threads = share_of_cores(len(sites))
    app = make_app(InProcess(sites, threads, vault))
    grid = LocalGrid(app, len(sites), workers=workers, transport=transport)
    try:
        run.app()(grid, grid.context)
    finally:
        grid.close()


def run_ray(run: Run, sites: Sequence[Path], *, address: str | None) -> None:
    """Carry `run` out on Flower's Simulation Engine, on a Ray of its own or the one at `address`.

    Every Ray worker must see the hospitals' folders under the same paths.
    """
    # Both are read when Ray is imported. A worker of Flower's that waits for a hospital while Ray is
    # shut down would start a second Ray, and wait in it for ever.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray asks for it at length
    from flwr.simulation import run_simulation  # imports Ray, which takes seconds

    init: dict[str, ConfigRecordValues] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        init |= {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    else:
        init |= {"address": address}
    gpus = 1.0 / len(sites) if torch.cuda.is_available() else 0.0
    with _ending_in_order(run.stop):
        run_simulation(
            server_app=run.app(),
            client_app=make_app(InProcess(sites, threads=1)),
            num_supernodes=len(sites),
            backend_config={
                "init_args": init,
                "client_resources": {"num_cpus": 1, "num_gpus": gpus},
            },
        )


@contextmanager
def _ending_in_order(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `stop` and is raised when everything inside has ended; the second one is at once.

    Flower runs the ServerApp in a thread, which hears of no Ctrl-C, and an interrupt amid its own
    threads takes Ray away from workers that still wait for it: the process then never ended, once
    in some hundred times.
    """
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: object) -> None:  # noqa: ARG001  (signal's signature)
        nonlocal pressed
        pressed = True
        stop.set()
        signal.signal(signal.SIGINT, before)

    main = threading.current_thread() is threading.main_thread()
    if main:
        signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        stop.set()  # whatever went wrong, the ServerApp's thread is not to go on
        if main:
            signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
