"""`intramural-simulate phantom-export`: DICOM to try everything with, for who has no images at hand."""

from pathlib import Path
from typing import Annotated

import typer

from common.progress import progress_bar
from simulation.convert.writing import refusing_to_write


def phantom_export(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    hospitals: Annotated[int, typer.Option(min=1, max=4, help="How many.")] = 4,
    patients: Annotated[
        int | None,
        typer.Option(min=1, help="Patients of each hospital.", show_default="24, 16, 12 and 8"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same files.")] = 0,
) -> None:
    """Write a pretend archive export: hospitals with phantom CT series as DICOM and findings.csv.

    A patient whom no hospital has is in held-out/. At the first hospital three things are wrong, on
    purpose. A study on phantoms is worth nothing but practice.
    """
    with refusing_to_write(folder):
        from simulation.phantom_export.export import PROTOCOL, export  # torch takes seconds

        with progress_bar("patients") as progress:
            protocol = export(folder, hospitals, patients, seed, progress)
        for hospital in protocol.hospitals:
            typer.echo(f"{hospital.name}: {hospital.nominal_patients} training patients")
        typer.echo(f"written: {folder / PROTOCOL}, hospitals/ and held-out/")
