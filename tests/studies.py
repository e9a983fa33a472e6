"""A study of images from the text of its protocol, for tests that need to say which images."""

from common.protocol import parse_protocol
from common.tasks.nodule_classification.study import NoduleStudy, of_images


def nodule_study(text: str) -> NoduleStudy:
    return of_images(parse_protocol(text), "a test")
