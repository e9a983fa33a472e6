"""Refuses every module that would come from the bundle folder; Python imports this when it starts.

Fails closed: a process that is told no bundle folder ends here. Stands alone, since Python imports it
before anything of intramural could be. The machine's own `sitecustomize` is imported after it.
"""

# Asked at every import, and before pathlib is loaded.
# ruff: noqa: PTH109, PTH117, PTH118, PTH120
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType

EXIT_UNGUARDED = 2


class BundleGuard:
    """Goes first in `sys.meta_path`: asks the other finders, and refuses what lies in `folder`."""

    def __init__(self, folder: str) -> None:
        if not os.path.isabs(folder):
            raise ValueError(f"INTRAMURAL_BUNDLES is '{folder}' and must be an absolute path")
        self._folder = os.path.realpath(folder)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's specification as the other finders have it, or the ImportError."""
        for finder in tuple(sys.meta_path):
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                return self.checked(spec)
        return None

    def checked(self, spec: ModuleSpec) -> ModuleSpec:
        """`spec`; ImportError, which Flower may send to the coordinator, when a bundle brings it."""
        if any(self._holds(place) for place in _places(spec)):
            raise ImportError("a bundle may not bring code")
        return spec

    def _holds(self, place: str) -> bool:
        """Whether `place` or a folder on the way to it, links followed, is in the bundle folder."""
        way: list[str] = []
        # Not abspath, which takes the folder of a link for that to which link/.. leads.
        step = place if os.path.isabs(place) else os.path.join(os.getcwd(), place)
        while step not in way:
            way.append(step)
            step = os.path.dirname(step)
        within = os.path.join(self._folder, "")
        return any(os.path.join(os.path.realpath(step), "").startswith(within) for step in way)


def _places(spec: ModuleSpec) -> Iterator[str]:
    """Where the code of a module and of those below it would be read; nothing for what is built in."""
    if spec.has_location and spec.origin is not None:
        yield spec.origin
    yield from spec.submodule_search_locations or ()


def _import_the_machines_own(guard: BundleGuard) -> None:
    """What Python would have imported, had this file not been first."""
    own = os.path.dirname(os.path.realpath(__file__))
    others = [entry for entry in sys.path if os.path.realpath(entry) != own]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(guard.checked(spec))
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


try:
    _guard = BundleGuard(os.environ.get("INTRAMURAL_BUNDLES", ""))
    sys.meta_path.insert(0, _guard)
except BaseException as error:  # Python would report it and go on without a guard
    sys.stderr.write(f"this process must not start without its import guard: {error}\n")
    sys.stderr.flush()
    os._exit(EXIT_UNGUARDED)
_import_the_machines_own(_guard)
