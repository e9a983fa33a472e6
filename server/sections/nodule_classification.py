"""Nodule classification in the report: two classes."""

from typing import ClassVar

from server.sections.binary import Binary


class NoduleClassification(Binary):
    """Nothing but what two classes have; its model can be shown further images."""

    predicts: ClassVar[bool] = True


PART = NoduleClassification()
