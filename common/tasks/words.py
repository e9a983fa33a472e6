"""How papers about a model (model card, checklist) word what its task alone knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Words:
    """Plain text from the protocol alone, with words from outside as they are; no full stop at an end.

    input         how a patient's data become what the network sees
    predictors    what is looked at, in a few words
    output        what the model says
    outcome       what is taken for the truth, and who says so
    unread        what becomes of data that cannot be used, at a hospital
    use           what the research is on
    groups        what is known by group of patients, a sentence
    elsewhere     where it is not known how well the model does
    meant_for     which patients the study is meant for
    augmentation  how training changes the input at random
    unusable      what becomes of such data when the model is used
    predictions   what computes a prediction
    not_for       uses of its own that the model is not meant for
    origins       where round 1 starts, by the names that this task alone has for it
    imaging       what guidelines for imaging ask beside ("patch", "window"); empty for other data
    """

    input: str
    predictors: str
    output: str
    outcome: str
    unread: str
    use: str
    groups: str
    elsewhere: str = "at another hospital"
    meant_for: str = "no inclusion is stated"
    augmentation: str = "no augmentation"
    unusable: str = "nothing of this software uses the model on new patients"
    predictions: str = "by the network from the weights file"
    not_for: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    imaging: Mapping[str, str] = field(default_factory=dict)
