"""The data report's pictures: patches as PNG, distributions as SVG. Each is a part of the page."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from client.data.survey import SCANNER, Survey
from client.inspection.inspection import Inspection
from client.inspection.measures import BINS, FEATURES
from common.drawing import BLUE, VERMILLION, canvas, svg_of
from common.tasks.nodule_classification.study import CtPatches, Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MONTAGE = 24  # patches of a class, at most
_COLUMNS, _SIDE, _GAP = 12, 72, 3  # of a montage: patches in a row, their pixels on the page
_SEED = 11  # of the choice: the same data show the same patches
_LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILLION, "linestyle": "--"},
)


def chosen(survey: Survey, label: int) -> list[int]:
    """At most `MONTAGE` images of the class, at random and in their order."""
    own = np.flatnonzero(survey.labels == label)
    some = np.random.default_rng(_SEED).permutation(own)[:MONTAGE]
    return sorted(some.tolist())


def patches(survey: Survey, indices: Sequence[int], alternative: str) -> str:
    """An <img> of the patches side by side; of three channels the middle one, the finding's own plane."""
    grey = survey.grey(np.array(indices, np.int64))
    middle = np.rint(grey[..., grey.shape[-1] // 2] * 255).astype(np.uint8)
    columns = min(_COLUMNS, len(middle))
    rows = -(-len(middle) // columns)
    step = _SIDE + _GAP
    sheet = Image.new("L", (columns * step - _GAP, rows * step - _GAP), 255)
    for n, one in enumerate(middle):
        large = Image.fromarray(one).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        sheet.paste(large, (n % columns * step, n // columns * step))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    width = f' width="{sheet.width}"' if columns < _COLUMNS else ""
    return f'<img alt="{escape(alternative)}"{width} src="data:image/png;base64,{data}">'


def window_of(found: Inspection, images: Images) -> CtPatches | None:
    """The window of HU that grey stands for; None for image files, which do not say it."""
    return images.ct if SCANNER in found.facts else None


def histogram(found: Inspection, images: Images) -> str:
    """SVG: the share of each class's pixels by HU, or by grey where no HU is known."""
    ct = window_of(found, images)
    low, high = (0.0, 1.0) if ct is None else (ct.hu_low, ct.hu_high)
    edges = np.linspace(low, high, BINS + 1)
    figure, (axes,) = canvas(7.4, 2.5, 1)
    for shares, name, line in zip(found.measures.histograms, images.classes, _LINES, strict=True):
        axes.stairs(100 * shares, edges, label=name.replace("$", r"\$"), linewidth=1.5, **line)
    axes.set_xlabel(
        "grey, 0 black to 1 white" if ct is None else "Hounsfield units, within the study's window"
    )
    axes.set_ylabel("pixels, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return svg_of(figure)


def distributions(found: Inspection) -> str:
    """SVG: of each feature how many images lie below a value, here and on phantoms."""
    figure, panels = canvas(7.4, 2.4, len(FEATURES))
    for column, (axes, feature) in enumerate(zip(panels, FEATURES, strict=True)):
        _below(axes, found.measures.features[:, column], "here", _LINES[0])
        _below(axes, found.phantom.phantom[:, column], "phantom", _LINES[1])
        axes.set_xlabel(feature)
        axes.set_ylim(0, 100)
    panels[0].set_ylabel("images below, %")
    panels[0].legend(frameon=False, fontsize=8)
    return svg_of(figure)


def _below(axes: "Axes", values: npt.NDArray[np.float64], name: str, line: dict[str, Any]) -> None:
    # A hundred points draw the curve; one for each of thousands of images would be megabytes.
    share = np.linspace(0, 100, 101)
    axes.plot(np.percentile(values, share), share, label=name, linewidth=1.5, **line)
