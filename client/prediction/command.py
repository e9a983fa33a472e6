"""`intramural-client predict`: a trained model on images that nobody has labelled, here and for here."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client import walls
from client.redaction import install
from common.errors import DataError, HospitalError, RunError
from common.progress import progress_bar
from common.refusing import refusing

if TYPE_CHECKING:
    from client.data.unlabelled import Place


def predict(
    model: Annotated[
        Path,
        typer.Argument(help="A run's folder, or model.safetensors with model-card.json beside."),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="PNG, JPEG or TIFF files, folders of them, folders of CT series with findings.csv, or "
            "DICOM and NIfTI files with --at or --pixel.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for what the model says.")] = Path(
        "predictions"
    ),
    at: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Place in each CT, mm (DICOM's LPS).")
    ] = None,
    pixel: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="Place in each DICOM file, from 0.")
    ] = None,
    overlay: Annotated[
        bool, typer.Option(help="Draw where the score changes when a part is covered.")
    ] = True,
    dicom: Annotated[
        bool,
        typer.Option("--dicom", help="Also write DICOM: a structured report and the overlay."),
    ] = False,
) -> None:
    """What a trained model says of images or CT findings: a probability, what it means, and a picture.

    Research use, not a medical device. Writes predictions.html, .csv and .json and one overlay for each
    finding; they name files of patients and stay here. What cannot be used is set aside; exit code 2
    when nothing could be predicted.
    """
    with refusing(), _writing(out):
        _behind_walls()
        # From here on there are threads, which would keep the network: numpy starts some.
        place = _place(at, pixel)
        import torch

        from client.data import SetAside
        from client.data.report_objects import Reports
        from client.data.unlabelled import unlabelled
        from client.prediction.model import load_model
        from client.prediction.page import PAGE
        from client.prediction.predicting import Predicting

        # Patches are small: with two threads on a busy machine of two cores an overlay took 22 s, most of
        # it waiting for each other, with one 0.9 s.
        torch.set_num_threads(1)
        carded = load_model(model)
        reports = Reports() if dicom else None
        set_aside: list[SetAside] = []
        with progress_bar("reading headers") as told:
            findings = unlabelled(
                inputs, carded.card.images, place, lambda done: told(done, None), set_aside
            )
        _make(out)
        with progress_bar("predicting") as told:
            done = count(1)
            run = Predicting(
                carded, out, overlay, reports, lambda: told(next(done), len(findings)), set_aside
            )
            run.run(findings)
    kept = f"; {len(set_aside)} set aside, with the reason" if set_aside else ""
    typer.echo(
        f"written: {out / PAGE}, .csv and .json about {len(run.found)} "
        f"finding{'' if len(run.found) == 1 else 's'}{kept}; they name files of patients and stay in the "
        f"hospital; research use, not a medical device"
    )


def export_onnx(
    model: Annotated[
        Path,
        typer.Argument(help="A run's folder, or model.safetensors with model-card.json beside."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
) -> None:
    """Write a trained model as ONNX, for other programs: pixels in 0..1 in, the score out.

    Normalisation and, where the study has it, the mean over flips and rotations are inside; the facts of
    the model's card are its metadata. It is written only when ONNX Runtime agrees with PyTorch.
    """
    with refusing(), _writing(out):
        from client.prediction.model import load_model
        from client.prediction.onnx_export import exported
        from common.files import write_atomic

        made = exported(load_model(model))
        write_atomic(out, made.data)
        typer.echo(
            f"written: {out}; on random images ONNX Runtime and PyTorch differ by at most "
            f"{made.difference:.1e}; research use, not a medical device"
        )


def _place(at: str | None, pixel: str | None) -> "Place | None":
    if at is not None and pixel is not None:
        raise DataError("expected --at or --pixel and found both; give a place in one way")
    given, option, names = (
        (at, "--at", "x,y,z") if pixel is None else (pixel, "--pixel", "row,column")
    )
    if given is None:
        return None
    try:
        numbers = tuple(float(part) for part in given.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != len(names.split(",")) or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"expected {names} as numbers after {option} and found {given!r}; write {option}={names}"
        )
    from client.data.unlabelled import Place

    return Place("mm" if pixel is None else "pixel", numbers)


def _behind_walls() -> None:
    """No network from here on where the host allows it, and nothing of a patient in logs or cores."""
    install(logging.WARNING)
    if walls.has_network():
        try:
            walls.leave_network()
        except HospitalError as error:
            logging.getLogger("intramural.predict").warning("it keeps its network: %s", error)


def _make(out: Path) -> None:
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise RunError(
            f"expected a new or an empty folder for the predictions and found files in {out}; choose "
            f"another --out"
        )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {out} ({error.strerror}); make room, or choose another place"
        ) from error
