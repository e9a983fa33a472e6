"""Findings -> what the model says of each, a few at a time, with the files that belong to it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from client.data import SetAside
from client.data.cohort import Pixels, promoted
from client.data.nifti import close_volumes
from client.data.quarantine import NotUsable
from client.data.report_objects import Reports, Statement
from client.data.unlabelled import Source, Unlabelled
from client.prediction.model import CardedModel
from client.prediction.occlusion import ScoreMap, score_map
from client.prediction.overlay import caption, picture
from client.prediction.page import MOST_PICTURES, PAGE, page
from client.prediction.results import CSV, JSON, Prediction, as_csv, as_json
from client.prediction.words import meaning_of
from common.errors import DataError
from common.files import write_atomic

_AT_ONCE = 256  # images, and
_VALUES_AT_ONCE = 1 << 22  # pixels times channels of them: what the network makes of it is far more


@dataclass
class Predicting:
    """One run of a model over findings, into the folder `out`.

    `with_overlay` draws an overlay of each; with `reports` there are DICOM objects of those that come
    from DICOM. `told` is called after each finding. What cannot be used is added to `set_aside`.
    """

    model: CardedModel
    out: Path
    with_overlay: bool
    reports: Reports | None
    told: Callable[[], None]
    set_aside: list[SetAside]
    found: list[Prediction] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)  # the first ones, for the page

    def run(self, findings: Sequence[Unlabelled]) -> None:
        """Predict `findings` and write all files. DataError, and no file, when none could be predicted."""
        for usable, pixels in self._patches(findings):
            for one, patch, score in zip(usable, pixels, self.model.scores(pixels), strict=True):
                self._add(one, patch, float(score))
                self.told()
        if not self.found:
            first = f", the first because {self.set_aside[0].reason}" if self.set_aside else ""
            raise DataError(
                f"expected at least one finding that can be predicted and found none "
                f"({len(self.set_aside)} set aside{first}); correct what is given"
            )
        card = self.model.card
        averaged = self.model.card.evaluation.flips_and_rotations
        self._write(CSV, as_csv(self.found).encode("utf-8", "backslashreplace"))
        self._write(JSON, as_json(self.found, self.set_aside, card, averaged).encode())
        text = page(self.found, self.pictures, self.set_aside, card)
        self._write(PAGE, text.encode("utf-8", "backslashreplace"))

    def _patches(self, findings: Sequence[Unlabelled]) -> Iterator[tuple[list[Unlabelled], Pixels]]:
        """Findings with their patches (n, size, size, channels), 16-bit: exact for 8-bit ones too."""
        images = self.model.card.images
        step = max(1, min(_AT_ONCE, _VALUES_AT_ONCE // (images.size**2 * images.channels)))
        for first in range(0, len(findings), step):
            usable: list[Unlabelled] = []
            patches: list[Pixels] = []
            for one in findings[first : first + step]:
                try:
                    pixels = one.patch()
                    patches.append(pixels if pixels.dtype == np.uint16 else promoted(pixels))
                    usable.append(one)
                except NotUsable as reason:
                    self.set_aside.append(SetAside(one.what, str(reason)))
                    self.told()
            if usable:
                yield usable, np.stack(patches)
        close_volumes()

    def _add(self, one: Unlabelled, pixels: Pixels, score: float) -> None:
        number, card = len(self.found) + 1, self.model.card
        overlay = f"overlay-{number:04d}.png" if self.with_overlay else None
        drawn: bytes | None = None
        seen: ScoreMap | None = None
        if overlay is not None:
            seen = score_map(self.model, pixels)
            drawn = picture(pixels, card.images, seen)
            self._write(overlay, drawn)
            if len(self.pictures) < MOST_PICTURES:
                self.pictures[overlay] = drawn
        prediction = Prediction(
            what=one.what,
            of=one.of,
            mm=one.mm,
            score=score,
            meaning=meaning_of(score, card),
            overlay=overlay,
            caption=None if seen is None else caption(seen),
        )
        self.found.append(prediction)
        if self.reports is not None and one.source is not None:
            self._report(self.reports, one.source, prediction, number, drawn)

    def _report(
        self,
        reports: Reports,
        source: Source,
        prediction: Prediction,
        number: int,
        drawn: bytes | None,
    ) -> None:
        card = self.model.card
        said = Statement(
            number=number,
            study=card.study,
            weights=card.weights,
            classes=card.images.classes,
            score=prediction.score,
            probability=prediction.meaning.probability,
            words=prediction.meaning.words,
        )
        try:
            self._write(f"report-{number:04d}.dcm", reports.structured_report(source, said))
            if drawn is not None:
                capture = reports.secondary_capture(source, said, drawn)
                self._write(f"overlay-{number:04d}.dcm", capture)
        except NotUsable as reason:
            self.set_aside.append(SetAside(f"the DICOM report of {prediction.what}", str(reason)))

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self.out / name, data)
