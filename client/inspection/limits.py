"""From where on something is said of a hospital's data: every limit, with the reason for it.

They are chosen, each for its reason, and none is fitted to a hospital. "Real patches" are the 6,581
LUNA16 candidates of 712 patients at four makers' scanners, at 32 x 32 pixels.
"""

from typing import NamedTuple


class Limit(NamedTuple):
    """`what` completes a table's row together with the value; `why` is a sentence."""

    value: float
    what: str
    why: str


NEAR = Limit(
    0.99,
    "correlation of all pixels from which two images are nearly the same",
    "No two real patches of different patients reach it (0.987 at most, of 12.7 million pairs): noise is "
    "never the same twice. Stored anew as JPEG, 19 of 20 keep it at quality 90 and more than half at "
    "75; relit, all do. A picture that was cut out again a few pixels aside is not found.",
)
SAME_PLACE_MM = Limit(
    2.0,
    "mm between two findings of a series that are at nearly the same place",
    "The smallest nodules that data sets list have 3 mm: two marks within 2 mm are of one.",
)
CONSTANT = Limit(
    0.01,
    "of the grey scale: an image whose pixels span less is constant",
    "Noise alone spans more. Such images are not compared with each other.",
)
CLIPPED = Limit(
    0.9,
    "share of pixels that are quite black or quite white: above, an image shows nothing",
    "Of real patches the most has 0.38, beside the chest wall; a wrong window has more.",
)
MOST_EMPTY = Limit(
    0.2,
    "share of images that show nothing: above, unfit",
    "Then the export or the window is wrong, and not some files.",
)
MOST_CONFLICTS = Limit(
    0.05,
    "share of images with two labels: above, unfit",
    "No model can be judged better than its labels are.",
)
MOST_ASIDE = Limit(
    0.2,
    "share of the findings that are set aside: above, unfit",
    "Who is left is no longer who was chosen for the study.",
)
FEW_PATIENTS = Limit(
    10,
    "training patients of a class: below, a warning",
    "One of them is more than a tenth of what is learnt of the class.",
)
RARE_CLASS = Limit(
    0.05,
    "share of the images: below, a class is rare",
    "Most steps of training would see few images of it, or none.",
)
MANY_TIMES = Limit(
    10,
    "times the usual number of images, and 20 at least: very many of one patient",
    "The most of a real patient has 3.3 times. Often two people share an id, or a series was cut up.",
)
MANY_IMAGES = 20
CHANCE = Limit(
    0.001,
    "p below which a link or a difference is not called chance",
    "A hospital has some ten such tests, and a study has many hospitals.",
)
LINKED = Limit(
    0.3,
    "Cramér's V of a fact and the class: from here a warning",
    "A medium link (J. Cohen, Statistical Power Analysis, 1988, section 7.2): a model may learn it.",
)
TOLD = Limit(
    0.9,
    "Cramér's V of a fact and the class: from here unfit",
    "The class can be read off the fact, and a model has nothing else to learn.",
)
APART = Limit(
    0.8,
    "KS distance from the phantom in one feature: from here a warning",
    "Real scanners are within 0.25 (0.45 with four patients, by chance); inverted images beyond 0.88.",
)
TOLD_APART = Limit(
    0.95,
    "AUROC at which images and phantom are told apart: from here a warning",
    "Real scanners reach 0.63, inverted images 0.98.",
)

LIMITS = (
    *(NEAR, SAME_PLACE_MM, CONSTANT, CLIPPED, MOST_EMPTY, MOST_CONFLICTS, MOST_ASIDE),
    *(FEW_PATIENTS, RARE_CLASS, MANY_TIMES, CHANCE, LINKED, TOLD, APART, TOLD_APART),
)
