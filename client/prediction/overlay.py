"""A score map as a picture: the plain patch, and beside it the patch under the map. Names nobody."""

import io

import numpy as np
import numpy.typing as npt

from client.data.cohort import Pixels
from client.prediction.occlusion import ScoreMap
from common.drawing import BLUE, INK, VERMILLION, canvas
from common.tasks.nodule_classification.study import Images

LEGEND = (
    "orange, solid line: covering it lowers the score · blue, dashed line: raises it",
    "where the score changes, not where disease is · research use, not a medical device",
)
NOTE = (
    "The pictures show where the score changes when a part of the image is covered by its blurred "
    "surroundings. They do not show where disease is, nor that a score is right."
)

# In logits. Of a map that is all but flat the colours would show the noise: it stays pale.
_LEAST_SCALE = 0.5
_OPAQUE = 0.75  # of the strongest change
_OUTLINED = 0.4  # of the scale


def picture(pixels: Pixels, images: Images, found: ScoreMap) -> bytes:
    """PNG of the image (size, size, channels) alone and under its map; no text but the legend."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
    from matplotlib.patches import Rectangle

    figure, (plain, under) = canvas(4.7, 2.65, 2)
    shown = _shown(pixels, images)
    scale = max(_LEAST_SCALE, float(np.abs(found.change).max()))
    share = found.change / scale
    colours = np.where(share[..., None] > 0, to_rgb(VERMILLION), to_rgb(BLUE))
    colours = np.concatenate([colours, _OPAQUE * np.abs(share)[..., None]], axis=-1)
    for axes in (plain, under):
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
        axes.set_axis_off()
    under.imshow(colours, interpolation="bilinear")
    for level, colour, line in ((_OUTLINED, VERMILLION, "solid"), (-_OUTLINED, BLUE, "dashed")):
        if (share > level).any() and (share < level).any():
            under.contour(share, [level], colors="white", linewidths=2.6, linestyles=line)
            under.contour(share, [level], colors=colour, linewidths=1.5, linestyles=line)
    both = LinearSegmentedColormap.from_list("", [BLUE, "white", VERMILLION])
    bar = figure.colorbar(
        ScalarMappable(Normalize(-scale, scale), both), ax=under, fraction=0.046, pad=0.04
    )
    bar.set_label("fall of the score (logit)", fontsize=7, color=INK)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_linewidth(0.5)
    top, left, side = found.strongest
    under.add_patch(
        Rectangle((left - 0.5, top - 0.5), side, side, fill=False, color="white", lw=1, ls=":")
    )
    plain.set_title("the image", fontsize=8, color=INK)
    under.set_title("where the score changes", fontsize=8, color=INK)
    figure.supxlabel("\n".join(LEGEND), fontsize=7, color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def caption(found: ScoreMap) -> str:
    """What the picture of `found` says, as a sentence."""
    return (
        f"Covering the dotted square takes the score from {found.score:.2f} to {found.covered:.2f}."
    )


def _shown(pixels: Pixels, images: Images) -> npt.NDArray[np.float32]:
    """(size, size) or, of a colour image, (size, size, 3) in 0..1; of neighbouring slices the middle."""
    scaled = (pixels / np.iinfo(pixels.dtype).max).astype(np.float32)
    if images.channels == 1 or images.ct is not None:
        return scaled[..., images.channels // 2]
    return scaled
