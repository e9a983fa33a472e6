"""`intramural-simulate convert`: public data sets as hospitals for a rehearsal (docs/datasets.md)."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.progress import progress_bar
from simulation.convert import HOSPITALS
from simulation.convert.writing import refusing_to_write

if TYPE_CHECKING:
    from simulation.convert.luna16 import Converted

app = typer.Typer(help="Public data sets -> hospitals for --data (docs/datasets.md).")

MOST_FAILURES_NAMED = 10

Out = Annotated[Path, typer.Argument(help="Folder to write; what is there already is kept.")]


def _two(classes: tuple[str, str]) -> tuple[str, str]:
    if classes[0] == classes[1]:
        raise typer.BadParameter(f"expected two classes and found '{classes[0]}' twice")
    return classes


Classes = Annotated[
    tuple[str, str],
    typer.Option(
        help="The two classes as images.classes of the protocol names them.", callback=_two
    ),
]
CandidatesFile = Annotated[
    Path | None,
    typer.Option("--candidates", help="Table of candidates.", show_default="in the folder"),
]
Annotations = Annotated[
    Path | None,
    typer.Option(
        help="annotations.csv: the radiologists' nodules, not a detector's marks on them."
    ),
]
Negatives = Annotated[
    int,
    typer.Option(min=0, help="Most candidates of a series that are no nodule, drawn at random."),
]
PublishedSplit = Annotated[
    bool, typer.Option("--published-split", help="The benchmark's sides, as train/ and test/.")
]
Seed = Annotated[int, typer.Option(help="Of that draw.")]
Sites = Annotated[
    Path | None,
    typer.Option(help="Table with series_uid and hospital, and if wanted patient_id."),
]
Hospitals = Annotated[
    int | None, typer.Option(min=1, max=1000, help="So many hospitals, by a hash of the patient.")
]
LUNG = ("non-nodule", "nodule")
NEGATIVES = 10


@app.command()
def luna16(
    folder: Annotated[
        Path, typer.Argument(help="Folder with candidates_V2.csv and subset0 ... 9.")
    ],
    out: Out,
    candidates: CandidatesFile = None,
    annotations: Annotations = None,
    negatives: Negatives = NEGATIVES,
    seed: Seed = 0,
    sites: Sites = None,
    hospitals: Hospitals = None,
    classes: Classes = LUNG,
) -> None:
    """LUNA16's volumes (.mhd) -> NIfTI with findings.csv; without --sites or --hospitals by subset.

    LUNA16 names no patient: a series stands for one. Can be stopped and called again.
    """
    with refusing_to_write(out):
        from simulation.convert.candidates import read_candidates
        from simulation.convert.hospitals import chosen_homes
        from simulation.convert.luna16 import candidates_file, convert_luna16

        homes = chosen_homes(sites, hospitals)
        table = candidates or candidates_file(folder)
        listed = read_candidates(table, annotations, negatives, seed)
        with progress_bar("series") as progress:
            done = convert_luna16(folder, out, listed, homes, classes, progress)
        _say(out, done)


@app.command()
def lidc(
    folder: Annotated[
        Path, typer.Argument(help="Folder with LIDC-IDRI's DICOM files, any nesting.")
    ],
    out: Out,
    candidates: Annotated[Path, typer.Option(help="LUNA16's candidates_V2.csv.")],
    annotations: Annotations = None,
    negatives: Negatives = NEGATIVES,
    seed: Seed = 0,
    sites: Sites = None,
    hospitals: Hospitals = None,
    classes: Classes = LUNG,
) -> None:
    """LIDC-IDRI's DICOM series with LUNA16's candidates; else by the scanner's manufacturer.

    The files name their patients. They are linked (hard links), or copied to another disk.
    """
    with refusing_to_write(out):
        from simulation.convert.candidates import read_candidates
        from simulation.convert.hospitals import chosen_homes
        from simulation.convert.lidc import convert_lidc

        homes = chosen_homes(sites, hospitals)
        listed = read_candidates(candidates, annotations, negatives, seed)
        with progress_bar("files") as progress:
            done = convert_lidc(folder, out, listed, homes, classes, progress)
        _say(out, done)


@app.command()
def medmnist(
    file: Annotated[Path, typer.Argument(help="nodulemnist3d.npz or nodulemnist3d_64.npz.")],
    out: Out,
    hospitals: Annotated[int, typer.Option(min=1, max=1000, help="So many, by a hash.")] = 4,
    slices: Annotated[
        int, typer.Option(min=1, max=3, help="1: the middle slice. 3: with its neighbours.")
    ] = 1,
    classes: Classes = ("benign", "malignant"),
) -> None:
    """NoduleMNIST3D -> PNG images with manifest.csv, and its test set in held-out/.

    The file names no patient: a nodule stands for one, and privacy is that of a nodule.
    """
    if slices == 2:
        raise typer.BadParameter("--slices is 1 or 3")
    with refusing_to_write(out):
        from simulation.convert.medmnist import convert_medmnist

        _table(convert_medmnist(file, out, hospitals, classes, slices))
        typer.echo(f"next: intramural-simulate --data {out / HOSPITALS} --protocol ...")


@app.command()
def brca(
    folder: Annotated[
        Path, typer.Argument(help="Folder with brca.csv and train_test_split.csv, as in FLamby.")
    ],
    out: Out,
    published_split: PublishedSplit = False,
) -> None:
    """Fed-TCGA-BRCA: survival of breast cancer in six regions -> records.csv for each."""
    with refusing_to_write(out):
        from simulation.convert.brca import convert_brca

        _table(convert_brca(folder, out, published_split=published_split))
        data = out / "train" if published_split else out
        typer.echo(f"next: intramural-simulate --example breast-survival --data {data}")


@app.command()
def heart(
    folder: Annotated[
        Path, typer.Argument(help="Folder with processed.cleveland.data and its three siblings.")
    ],
    out: Out,
    published_split: PublishedSplit = False,
) -> None:
    """The UCI heart-disease files: coronary disease at four hospitals -> records.csv for each.

    The files name no patient: a row stands for one.
    """
    with refusing_to_write(out):
        from simulation.convert.heart import convert_heart

        _table(convert_heart(folder, out, published_split=published_split))
        data = out / "train" if published_split else out
        typer.echo(f"next: intramural-simulate --example heart --data {data}")


def _say(out: Path, done: "Converted") -> None:
    _table(done.hospitals)
    console = Console(stderr=True)
    for sentence in done.failed[:MOST_FAILURES_NAMED]:
        console.print(f"[yellow]left out[/]: {escape(sentence)}", highlight=False, soft_wrap=True)
    typer.echo(
        f"{done.kept} series were there already, {len(done.failed)} are left out, {done.elsewhere} of "
        f"the table are not in the folder or at no hospital\n"
        f"next: intramural-simulate --data {out / HOSPITALS} --protocol ..."
    )


def _table(hospitals: Mapping[str, Counter[str]]) -> None:
    columns = sorted({name for counts in hospitals.values() for name in counts})
    table = Table("hospital", *columns)
    for name, counts in sorted(hospitals.items()):
        table.add_row(name, *(str(counts[column]) for column in columns))
    Console().print(table)
