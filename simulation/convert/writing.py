"""How a command that writes folders of images says no: in one sentence, a full disk too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import RunError
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
