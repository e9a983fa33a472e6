"""The length of the noise in the final model, against noise that is really added up."""

from collections.abc import Callable

import numpy as np
import pytest

from common.model_spec import update_spec
from common.protocol import StudyProtocol, parse_protocol
from server.strategy import public_weights
from simulation.disturbance import MOST_DISTURBANCE, disturbance, too_much

MakeStudy = Callable[..., StudyProtocol]


def with_rate(study: StudyProtocol, rate: float) -> StudyProtocol:
    training = study.training.model_copy(update={"learning_rate": rate})
    return study.model_copy(update={"training": training})


def test_it_is_the_length_of_noise_that_is_added_up_step_by_step(small_study: MakeStudy) -> None:
    study, sigma = small_study(north=60, east=30, west=5), 1.7
    weights = sum(int(np.prod(shape)) for shape in update_spec(study).values())
    shares = public_weights(study, dict.fromkeys(study.hospital_names, sigma))
    seed = 11
    print(f"seed {seed}")
    random, model = np.random.default_rng(seed), np.zeros(weights)
    for _ in range(study.rounds):
        for hospital in study.hospitals:
            update = np.zeros(weights)
            for _ in range(study.training.steps_per_round):
                noise = random.normal(size=weights) * sigma * study.privacy.max_grad_norm
                denominator = study.training.sampling_rate * hospital.nominal_patients
                update -= study.training.learning_rate * noise / denominator
            model += shares[hospital.name] / sum(shares.values()) * update
    assert disturbance(study, sigma) == pytest.approx(float(np.linalg.norm(model)), rel=0.02)


def test_the_rate_that_is_called_bearable_is_just_bearable(small_study: MakeStudy) -> None:
    study = with_rate(small_study(north=20, west=4), 0.5)
    sentence = too_much(study, 2.0)
    assert sentence is not None
    bearable = float(sentence.split("at most ")[1].split()[0])
    assert disturbance(with_rate(study, bearable), 2.0) == pytest.approx(MOST_DISTURBANCE, rel=0.05)
    assert too_much(with_rate(study, 0.9 * bearable), 2.0) is None


def test_training_the_head_alone_bears_far_more(small_study: MakeStudy) -> None:
    study = small_study(north=20, west=4)
    head = parse_protocol(study.to_toml().replace('trainable = "all"', 'trainable = "head"'))
    ratio = disturbance(study, 1.0) / disturbance(head, 1.0)
    assert ratio == pytest.approx((60_530 / 130) ** 0.5, rel=0.01)
