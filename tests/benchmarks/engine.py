"""`make bench`: one step of per-patient clipping, ours, Opacus' and without privacy, side by side.

Every engine runs in a process of its own, so that its peak memory is its own, and the engines of a
case take their steps in turn, so that a busy machine slows all of them. Figures are printed, not
asserted: they belong into docs/benchmarks.md with the machine's name.

    python tests/benchmarks/engine.py [--device cuda] [--precision bf16] [--repeats 7]
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleExpandedWeights, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn

from client.policy import Precision
from client.privacy.book_keeping import BookKeepingClipper
from client.privacy.chunks import Chunks
from client.privacy.engine import HooksClipper, PatientClipper, PlainSum
from common.models import build_model
from tests.shapes import CROSS_ENTROPY, image_shape

OPACUS = ("opacus hooks", "opacus ghost", "opacus ew")
SLOWEST = 60.0  # seconds a step
MOST = {"cpu": 4e9, "cuda": 64e9}  # bytes of per-image gradients, of which Opacus needs two or more


@dataclass(frozen=True)
class Case:
    """`patients` patients of `views` views each; Opacus' own modes know one image a patient only."""

    model: str
    size: int
    patients: int
    views: int = 1

    def engines(self) -> list[str]:
        own = ["non-private", "ours"]
        return own + (list(OPACUS) if self.views == 1 else ["opacus hooks by patient"])

    def __str__(self) -> str:
        views = "" if self.views == 1 else f" x {self.views} views"
        return f"{self.model}, {self.size} px, {self.patients} patients{views}"


CASES = [
    Case("compact-cnn", 32, 30, views=4),  # what the shipped study draws
    *(
        Case(model, size, batch)
        for model in ("compact-cnn", "resnet18")
        for size in (64, 128)
        for batch in (32, 128)
    ),
]


def step_of(
    engine: str, case: Case, model: nn.Module, device: torch.device, precision: Precision
) -> Callable[[Tensor, Tensor, Tensor], None]:
    """What adds one batch's gradient sum, clipped but for "non-private", to `.grad`."""
    shape = image_shape(case.views, 3, case.size)
    clippers: dict[str, Callable[[], PatientClipper]] = {
        "non-private": lambda: PlainSum(model, CROSS_ENTROPY, case.views),
        "ours": lambda: BookKeepingClipper(model, CROSS_ENTROPY, 1.0, shape, precision),
        "opacus hooks by patient": lambda: HooksClipper(model, CROSS_ENTROPY, 1.0, case.views),
    }
    if engine in clippers:
        clipper = clippers[engine]()
        if engine == "non-private":
            return clipper.add_clipped_sum
        return Chunks(clipper, shape, device, None).add
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    settings = {"noise_multiplier": 0.0, "max_grad_norm": 1.0, "expected_batch_size": 1}
    if engine == "opacus ghost":
        ghost = GradSampleModuleFastGradientClipping(
            model, max_grad_norm=1.0, use_ghost_clipping=True
        )
        optimizer = DPOptimizerFastGradientClipping(sgd, **settings)
        loss = DPLossFastGradientClipping(ghost, optimizer, nn.CrossEntropyLoss())

        def by_ghost(inputs: Tensor, labels: Tensor, _: Tensor) -> None:
            loss(ghost(inputs), labels).backward()
            optimizer.zero_grad()

        return by_ghost
    kind = GradSampleModule if engine == "opacus hooks" else GradSampleModuleExpandedWeights
    wrapped, sampler = kind(model), DPOptimizer(sgd, **settings)
    criterion = nn.CrossEntropyLoss()

    def by_samples(inputs: Tensor, labels: Tensor, _: Tensor) -> None:
        criterion(wrapped(inputs), labels).backward()
        sampler.clip_and_accumulate()
        sampler.zero_grad()

    return by_samples


def child(engine: str, case: Case, device: torch.device, precision: Precision) -> None:
    """One step for every line on standard input; prints seconds and peak bytes of each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(case.model, 3, 2).to(device)
    batch = image_shape(case.views, 3, case.size).synthetic(case.patients, device)
    step = step_of(engine, case, model, device, precision)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else peak_resident()
    for _ in sys.stdin:
        model.zero_grad()
        start = time.perf_counter()
        step(*batch)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if on_gpu else peak_resident()
        print(json.dumps([seconds, peak - before]), flush=True)


def peak_resident() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Runner:
    """A process with one engine, which takes a step when it is asked to."""

    def __init__(self, engine: str, case: Case, options: argparse.Namespace) -> None:
        arguments = json.dumps({"engine": engine, "case": asdict(case)})
        of_all = ["--device", options.device, "--precision", options.precision]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--child", arguments, *of_all],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
        )
        self.seconds: list[float] = []
        self.memory = 0.0
        self.reason = ""

    def step(self) -> None:
        asked, said = pipe(self._process.stdin), pipe(self._process.stdout)
        try:
            asked.write("step\n")
            asked.flush()
            seconds, self.memory = json.loads(said.readline())
        except (OSError, ValueError):
            self.reason = "failed"
            return
        self.seconds.append(seconds)
        if seconds > SLOWEST:
            self.reason = f"{seconds:.0f} s a step"

    def end(self) -> None:
        pipe(self._process.stdin).close()
        self._process.wait()
        pipe(self._process.stdout).close()


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def measure(case: Case, options: argparse.Namespace) -> None:
    weights = sum(p.numel() for p in build_model(case.model, 3, 2).parameters())
    gradients = 4.0 * weights * case.patients
    runners = {}
    print(f"\n{case}")
    for engine in case.engines():
        if engine in OPACUS and gradients > MOST[options.device]:
            print(f"  {engine:24} left out: {gradients / 1e9:.1f} GB of per-image gradients")
        else:
            runners[engine] = Runner(engine, case, options)
    for _ in range(1 + options.repeats):  # the first step warms up
        for runner in runners.values():
            if not runner.reason:
                runner.step()
    plain = runners["non-private"]
    for engine, runner in runners.items():
        runner.end()
        if runner.reason:
            print(f"  {engine:24} left out: {runner.reason}")
            continue
        pairs = zip(plain.seconds[1:], runner.seconds[1:], strict=True)
        images = case.patients * case.views / median(runner.seconds[1:])
        print(
            f"  {engine:24} {images:8.0f} images/s  {median(a / b for a, b in pairs):5.2f} of "
            f"non-private  {runner.memory / 1e6:6.0f} MB  {runner.memory / plain.memory:5.2f} x"
        )
    print(f"  load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose description contains this")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asked = json.loads(options.child)
        device = torch.device(options.device)
        child(asked["engine"], Case(**asked["case"]), device, options.precision)
        return
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    print(f"machine: {name}, {os.cpu_count()} cores, torch {torch.__version__}, one thread")
    for case in CASES:
        if options.only in str(case):
            measure(case, options)


if __name__ == "__main__":
    main()
