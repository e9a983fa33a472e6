"""Every wheel that the product needs on this kind of machine, pinned by hash: `make wheelhouse`.

`python deploy/wheelhouse.py FOLDER` fills FOLDER with intramural's own wheel, those below it under
constraints.txt, and `requirements.txt`, by which pip installs exactly these files and no others,
without network (THREATS.md T20). Of others only wheels are taken: a source package would run code of
its own when it is built.
"""

import argparse
import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.utils import parse_wheel_filename

REPOSITORY = Path(__file__).resolve().parent.parent
REQUIREMENTS = "requirements.txt"


def fill(folder: Path) -> None:
    """Put the wheels and their requirements into `folder`; what an earlier call left there goes.

    CalledProcessError when a wheel cannot be built or found. Then there are no requirements either,
    so nothing is installed from half a wheelhouse.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REQUIREMENTS).unlink(missing_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    with TemporaryDirectory() as built:
        # By way of a source package, so that no file lies in the wheel that the project lacks now.
        _python("build", "--no-isolation", "--outdir", built, str(REPOSITORY))
        (own,) = Path(built).glob("*.whl")
        constraints = str(REPOSITORY / "constraints.txt")
        only = ("--only-binary", ":all:", "--constraint", constraints)
        _python("pip", "download", *only, "--dest", str(folder), str(own))
    (folder / REQUIREMENTS).write_text(requirements(folder))


def requirements(folder: Path) -> str:
    """What pip needs to install exactly the wheels in `folder`: names, versions, SHA-256."""
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    lines = [f"# For {python}, {sysconfig.get_platform()}. Made by `make wheelhouse`.\n"]
    for wheel in sorted(folder.glob("*.whl"), key=lambda path: path.name.lower()):
        name, version, *_ = parse_wheel_filename(wheel.name)
        with wheel.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        lines.append(f"{name}=={version} --hash=sha256:{digest}\n")
    return "".join(lines)


def _python(module: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True)  # noqa: S603  (our own command)


def main() -> None:
    """Fill the folder that the command line names, and say what hospitals compare."""
    words = argparse.ArgumentParser(description="Gather every wheel that intramural needs.")
    words.add_argument("folder", type=Path)
    folder = words.parse_args().folder
    fill(folder)
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e9
    digest = hashlib.sha256((folder / REQUIREMENTS).read_bytes()).hexdigest()
    sys.stdout.write(
        f"{folder}: {len(wheels)} wheels, {size:.1f} GB\n{digest}  {folder / REQUIREMENTS}\n"
    )


if __name__ == "__main__":
    main()
