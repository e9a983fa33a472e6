"""How a command that writes folders of images says no: in one sentence, a full disk too."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import DataError, RunError
from common.refusing import refusing


@contextmanager
def refusing_to_write(out: Path) -> Iterator[None]:
    """As `refusing`, and so for an OSError in the block, which is taken for one of writing `out`."""
    with refusing():
        try:
            yield
        except OSError as error:
            raise RunError(
                f"expected a folder that can be written at {out}, found that it cannot ({error}); make "
                f"room, or choose another folder"
            ) from error


def check_own(out: Path, hospitals: Collection[str]) -> None:
    """DataError when `out` has tables of other hospitals: a rehearsal would take all for one study."""
    others = {table.parent.name for table in out.glob("*/records.*")} - set(hospitals)
    if others:
        raise DataError(
            f"expected at {out} no other hospitals than {', '.join(hospitals)}, found '{min(others)}'; "
            f"choose another folder"
        )
