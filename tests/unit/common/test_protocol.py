"""A protocol that is not valid cannot exist, and its digest is that of its values and nothing else."""

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import common
from common.errors import ProtocolError
from common.protocol import (
    MAX_TEXT_BYTES,
    STRATEGY_SETTINGS,
    StudyProtocol,
    load_protocol,
    parse_protocol,
)
from common.tasks.nodule_classification.study import NoduleStudy
from tests.studies import nodule_study

EXAMPLE = Path(common.__file__).parent / "examples" / "lung-nodules.toml"

# A study of this file's own, so that the shipped example may change.
TEXT = """\
# Study protocol: lung-nodule classification on CT patches, four hospitals.
study = "lung-nodules"
task = "nodule-classification"
rounds = 10

[images]
classes = ["non-nodule", "nodule"]
size = 32                            # pixels, after a centre crop
channels = 1
fit = "crop"
mean = 0.4
std = 0.25
validation-fraction = 0.2

[model]
name = "compact-cnn"
initial-model = "phantom"
trainable = "all"

[training]
steps-per-round = 4
learning-rate = 0.5
sampling-rate = 0.5
views-per-patient = 4
flips-and-rotations = true

[evaluation]
every = 1
flips-and-rotations = true

[privacy]
mechanism = "dp-sgd"
epsilon = 8.0
delta = 1e-5
max-grad-norm = 1.0
validation-epsilon = 8.0

[aggregation]
strategy = "fedavg"
weights = "inverse-variance"
ema = 0.5

[participation]
quorum = 3
deadline-seconds = 900

[[hospitals]]
name = "north"
nominal-patients = 60

[[hospitals]]
name = "east"
nominal-patients = 40

[[hospitals]]
name = "south"
nominal-patients = 24

[[hospitals]]
name = "west"
nominal-patients = 8
"""


def changed(old: str, new: str) -> str:
    """The text above with `old`, which is in it, replaced once."""
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def refusal(text: str) -> str:
    """What the protocol in `text` is refused with: one short line."""
    with pytest.raises(ProtocolError) as caught:
        parse_protocol(text)
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 500
    assert "should" not in sentence  # a leftover of pydantic's own grammar
    assert "pydantic" not in sentence
    return sentence


def test_the_shipped_example_is_valid() -> None:
    protocol = load_protocol(EXAMPLE)
    assert protocol.study == EXAMPLE.stem
    assert protocol.privacy.mechanism == "dp-sgd"  # what one copies is private
    assert parse_protocol(protocol.to_toml()).digest == protocol.digest


def test_what_is_written_is_what_the_protocol_has() -> None:
    protocol = nodule_study(TEXT)
    assert protocol.hospital_names == ("north", "east", "south", "west")
    assert protocol.total_steps == 40
    assert protocol.hospital("west").nominal_patients == 8
    assert (protocol.privacy.epsilon, protocol.privacy.delta) == (8.0, 1e-5)
    assert protocol.images.classes == ("non-nodule", "nodule")


WRONG_VALUES = {
    "study": ('study = "lung-nodules"', 'study = "Lung Nodules"', "study"),
    "study that is a path": ('study = "lung-nodules"', 'study = "../x"', "study"),
    "study not text": ('study = "lung-nodules"', "study = 1", "study"),
    "unknown task": ("nodule-classification", "segmentation", "task"),
    "rounds 0": ("rounds = 10", "rounds = 0", "rounds"),
    "rounds -1": ("rounds = 10", "rounds = -1", "rounds"),
    "rounds as float": ("rounds = 10", "rounds = 10.0", "rounds"),
    "rounds as text": ("rounds = 10", 'rounds = "10"', "rounds"),
    "rounds as truth value": ("rounds = 10", "rounds = true", "rounds"),
    "rounds as date": ("rounds = 10", "rounds = 2024-01-01", "rounds"),
    "rounds beyond printing": ("rounds = 10", "rounds = 0x" + "f" * 5000, "rounds"),
    "size": ("size = 32", "size = 15", "images.size"),
    "channels": ("channels = 1", "channels = 2", "images.channels"),
    "mean": ("mean = 0.4", "mean = 40.0", "images.mean"),
    "std 0": ("std = 0.25", "std = 0.0", "images.std"),
    "one class": ('["non-nodule", "nodule"]', '["nodule"]', "images.classes"),
    "three classes": ('["non-nodule", "nodule"]', '["a", "b", "c"]', "images.classes"),
    "a class twice": ('["non-nodule", "nodule"]', '["a", "a"]', "images.classes"),
    "a class that commands a terminal": (
        '["non-nodule", "nodule"]',
        r'["a\u001b[2J", "b"]',
        "images.classes",
    ),
    "an initial model that commands one": (
        '"phantom"',
        r'"\u001b[2J.safetensors"',
        "model.initial-model",
    ),
    "a key that commands one": ("rounds = 10", r'"\u001b[2J" = 10', "unknown key"),
    "fraction 1": ("validation-fraction = 0.2", "validation-fraction = 1.0", "validation-fraction"),
    "unknown model": ('name = "compact-cnn"', 'name = "resnet50"', "model.name"),
    "initial model": ('"phantom"', '"model.pth"', "model.initial-model"),
    "imagenet with compact-cnn": ('"phantom"', '"imagenet"', "model.initial-model"),
    "steps 0": ("steps-per-round = 4", "steps-per-round = 0", "training.steps-per-round"),
    "learning rate 0": ("learning-rate = 0.5", "learning-rate = 0", "training.learning-rate"),
    "learning rate inf": ("learning-rate = 0.5", "learning-rate = inf", "training.learning-rate"),
    "sampling rate 0": ("sampling-rate = 0.5", "sampling-rate = 0.0", "training.sampling-rate"),
    "sampling rate > 1": ("sampling-rate = 0.5", "sampling-rate = 1.5", "training.sampling-rate"),
    "sampling rate NaN": ("sampling-rate = 0.5", "sampling-rate = nan", "training.sampling-rate"),
    "views 0": ("views-per-patient = 4", "views-per-patient = 0", "training.views-per-patient"),
    "flips": ("flips-and-rotations = true", "flips-and-rotations = 1", "flips-and-rotations"),
    "trainable": ('trainable = "all"', 'trainable = "norms"', "model.trainable"),
    "trainable as truth value": ('trainable = "all"', "trainable = true", "model.trainable"),
    "evaluation never": ("every = 1", "every = 0", "evaluation.every"),
    "evaluation backwards": ("every = 1", "every = -1", "evaluation.every"),
    "evaluation every 1.5": ("every = 1", "every = 1.5", "evaluation.every"),
    "evaluation every true": ("every = 1", "every = true", "evaluation.every"),
    "prevalence 0": ("every = 1", "prevalence = 0.0", "evaluation.prevalence"),
    "prevalence 1": ("every = 1", "prevalence = 1.0", "evaluation.prevalence"),
    "prevalence in words": ("every = 1", 'prevalence = "rare"', "evaluation.prevalence"),
    "evaluation flips": (
        "every = 1\nflips-and-rotations = true",
        'every = 1\nflips-and-rotations = "yes"',
        "evaluation.flips-and-rotations",
    ),
    "ema 0": ("ema = 0.5", "ema = 0.0", "aggregation.ema"),
    "ema 1": ("ema = 0.5", "ema = 1.0", "aggregation.ema"),
    "ema negative": ("ema = 0.5", "ema = -0.5", "aggregation.ema"),
    "ema NaN": ("ema = 0.5", "ema = nan", "aggregation.ema"),
    "ema as text": ("ema = 0.5", 'ema = "0.5"', "aggregation.ema"),
    "mechanism": ('mechanism = "dp-sgd"', 'mechanism = "off"', "privacy.mechanism"),
    "epsilon 0": ("\nepsilon = 8.0", "\nepsilon = 0", "privacy.epsilon"),
    "epsilon negative": ("\nepsilon = 8.0", "\nepsilon = -8.0", "privacy.epsilon"),
    "epsilon NaN": ("\nepsilon = 8.0", "\nepsilon = nan", "privacy.epsilon"),
    "epsilon inf": ("\nepsilon = 8.0", "\nepsilon = inf", "privacy.epsilon"),
    "epsilon as text": ("\nepsilon = 8.0", '\nepsilon = "8.0"', "privacy.epsilon"),
    "validation epsilon": (
        "validation-epsilon = 8.0",
        "validation-epsilon = nan",
        "validation-eps",
    ),
    "delta 0": ("delta = 1e-5", "delta = 0.0", "privacy.delta"),
    "delta NaN": ("delta = 1e-5", "delta = nan", "privacy.delta"),
    "delta 1 %": ("delta = 1e-5", "delta = 0.01", "privacy.delta"),
    "clipping norm 0": ("max-grad-norm = 1.0", "max-grad-norm = 0.0", "privacy.max-grad-norm"),
    "clipping norm inf": ("max-grad-norm = 1.0", "max-grad-norm = inf", "privacy.max-grad-norm"),
    "unknown strategy": ('strategy = "fedavg"', 'strategy = "fedsgd"', "aggregation.strategy"),
    "unknown weights": ('"inverse-variance"', '"num-examples"', "aggregation.weights"),
    "quorum 0": ("quorum = 3", "quorum = 0", "participation.quorum"),
    "quorum 5 of 4": ("quorum = 3", "quorum = 5", "participation.quorum"),
    "deadline 0": ("deadline-seconds = 900", "deadline-seconds = 0", "deadline-seconds"),
    "deadline inf": ("deadline-seconds = 900", "deadline-seconds = inf", "deadline-seconds"),
    "a hospital twice": ('name = "east"', 'name = "north"', "'north' more than once"),
    "no patients": ("nominal-patients = 8", "nominal-patients = 0", "hospitals.3.nominal-patients"),
    "hospital a path": ('name = "east"', 'name = "../east"', "hospitals.1.name"),
    "a section is a number": ("[model]\nname", "[other]\nname", "unknown key 'other'"),
    "missing": ("rounds = 10", "", "'rounds' is missing"),
    "missing in a section": ("size = 32", "", "'images.size' is missing"),
}


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_wrong_value_is_refused_in_one_sentence_that_names_it(case: str) -> None:
    old, new, named = WRONG_VALUES[case]
    sentence = refusal(changed(old, new))
    assert named in sentence
    assert "\x1b" not in sentence


def test_one_hospital_cannot_have_a_quorum_of_two() -> None:
    one = changed("quorum = 3", "quorum = 2").partition("[[hospitals]]")[0]
    one += '[[hospitals]]\nname = "north"\nnominal-patients = 60\n'
    sentence = refusal(one)
    assert "participation.quorum is 2" in sentence
    assert "1 hospital(s)" in sentence


def test_a_study_has_a_hospital() -> None:
    assert "'hospitals'" in refusal("hospitals = []\n" + TEXT.partition("[[hospitals]]")[0])


def test_delta_is_below_one_in_the_largest_cohort() -> None:
    large = TEXT.replace("nominal-patients = 40", "nominal-patients = 200000")
    assert "1 / 200000" in refusal(large)
    without = large.replace('mechanism = "dp-sgd"', 'mechanism = "none"')
    assert parse_protocol(without).privacy.mechanism == "none"  # no guarantee, no delta


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("rounds = 10", "round = 10", "unknown key 'round'; did you mean 'rounds'?"),
        ("max-grad-norm", "max-grad-nrm", "'privacy.max-grad-nrm'; did you mean 'max-grad-norm'?"),
        ("[privacy]", "[privcy]", "unknown key 'privcy'; did you mean 'privacy'?"),
        ("nominal-patients = 8", "patients = 8", "did you mean 'nominal-patients'?"),
        ("quorum = 3", "quorum = 3\nxyzzy = 3", "unknown key 'participation.xyzzy'"),
        ("steps-per-round = 4", "steps-per-round = 4\nsteps_per_round = 5", "steps_per_round"),
        ("trainable", "trainabel", "'model.trainabel'; did you mean 'trainable'?"),
        ("[evaluation]", "[evalution]", "unknown key 'evalution'; did you mean 'evaluation'?"),
        ("every = 1", "evry = 1", "'evaluation.evry'; did you mean 'every'?"),
        ("ema = 0.5", "eam = 0.5", "'aggregation.eam'; did you mean 'ema'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(old: str, new: str, hint: str) -> None:
    assert hint in refusal(changed(old, new))


@pytest.mark.parametrize("strategy", STRATEGY_SETTINGS)
def test_a_strategy_has_its_own_settings_and_no_others(strategy: str) -> None:
    value: dict[str, float | int] = dict.fromkeys(sum(STRATEGY_SETTINGS.values(), ()), 0.25)
    value["malicious_hospitals"] = 1
    for setting, number in value.items():
        line = f'strategy = "{strategy}"\n{setting.replace("_", "-")} = {number}'
        text = changed('strategy = "fedavg"', line)
        if setting in STRATEGY_SETTINGS[strategy]:
            assert getattr(parse_protocol(text).aggregation, setting) == number
        else:
            assert f"not a setting of '{strategy}'" in refusal(text)


@pytest.mark.parametrize("strategy", STRATEGY_SETTINGS)
def test_every_strategy_may_average_its_models(strategy: str) -> None:
    text = changed('strategy = "fedavg"', f'strategy = "{strategy}"')
    assert parse_protocol(text).aggregation.ema == 0.5
    assert parse_protocol(text.replace("ema = 0.5\n", "")).aggregation.ema is None


# --- when the model is judged ----------------------------------------------------------------


def with_evaluations(rounds: int, every: int) -> StudyProtocol:
    text = changed("rounds = 10", f"rounds = {rounds}")
    return parse_protocol(text.replace("every = 1\n", f"every = {every}\n"))


@pytest.mark.parametrize(
    ("rounds", "every", "judged"),
    [
        (10, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (10, 2, [1, 3, 5, 7, 9, 11]),
        (10, 3, [1, 4, 7, 10, 11]),
        (10, 5, [1, 6, 11]),
        (10, 9, [1, 10, 11]),
        (10, 10, [1, 11]),
        (10, 11, [1, 11]),
        (10, 1000, [1, 11]),
        (1, 1, [1, 2]),
        (1, 7, [1, 2]),
    ],
)
def test_the_first_every_kth_and_the_final_model_are_judged(
    rounds: int, every: int, judged: list[int]
) -> None:
    protocol = with_evaluations(rounds, every)
    assert [r for r in range(1, rounds + 2) if protocol.evaluates(r)] == judged
    assert protocol.evaluations == len(judged)


def test_the_number_of_evaluations_is_that_of_the_rounds_that_evaluate() -> None:
    """What is accounted is what is asked, also where the last round falls on a k-th one."""
    base = with_evaluations(10, 1)
    for rounds in range(1, 41):
        for every in range(1, 45):
            protocol = base.model_copy(
                update={
                    "rounds": rounds,
                    "evaluation": base.evaluation.model_copy(update={"every": every}),
                }
            )
            counted = sum(protocol.evaluates(r) for r in range(1, rounds + 2))
            assert protocol.evaluations == counted, (rounds, every)
            assert protocol.evaluates(1)
            assert protocol.evaluates(rounds + 1)


@pytest.mark.parametrize("name", ["compact-cnn", "resnet18"])
def test_imagenet_needs_the_model_that_it_folds_into(name: str) -> None:
    text = changed('"phantom"', '"imagenet"')
    right = text.replace('name = "compact-cnn"', 'name = "resnet18-frozen-affine"')
    assert parse_protocol(right).model.initial_model == "imagenet"
    wrong = text.replace('name = "compact-cnn"', f'name = "{name}"')
    assert f"needs model.name 'resnet18-frozen-affine', found '{name}'" in refusal(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "study = ",
        '{"study": "json"}',
        TEXT + "\n[images]\nsize = 32\n",
        TEXT + "\nstudy",
        "rounds = " + "9" * 5000,
        "x = " + "[" * 100_000,
        "x = " + "{a=" * 10_000,
        'study = "\ud800"',
    ],
    ids=lambda text: ascii(text[-12:]),
)
def test_text_that_is_not_toml_is_refused_and_raises_nothing_else(text: str) -> None:
    assert "not valid TOML" in refusal(text)


def test_an_over_long_text_is_refused_before_it_is_parsed() -> None:
    padding = "#" * (MAX_TEXT_BYTES - len(TEXT.encode()))
    parse_protocol(TEXT + padding)
    assert "larger than" in refusal(TEXT + padding + "#")
    assert "larger than" in refusal("é" * (MAX_TEXT_BYTES // 2 + 1))


def test_a_refusal_does_not_repeat_a_long_or_broken_value() -> None:
    refusal(changed('study = "lung-nodules"', 'study = "' + "x" * 10_000 + '"'))
    assert "unknown key 'a b'" in refusal('"a\\nb" = 1\n' + TEXT)


def test_a_file_that_cannot_be_read_is_a_protocol_error(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="cannot read"):
        load_protocol(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'study = "\xe9"')
    with pytest.raises(ProtocolError, match="cannot read"):
        load_protocol(tmp_path / "latin.toml")


def test_a_hospital_that_is_not_on_the_roster_is_named() -> None:
    with pytest.raises(ProtocolError, match="'nowhere' is not on the roster"):
        parse_protocol(TEXT).hospital("nowhere")


# --- the digest ------------------------------------------------------------------------------


def reordered(value: Any) -> Any:
    """The same tables with their keys in the opposite order; lists as they are."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def test_comments_white_space_and_order_of_keys_do_not_change_the_digest() -> None:
    bare = "\r\n".join(line.partition("#")[0].replace(" = ", "=") for line in TEXT.splitlines())
    turned = tomli_w.dumps(reordered(tomllib.loads(TEXT)))
    assert turned.index("hospitals") < turned.index("images")
    for text in (bare, turned, "# a word\n\n" + TEXT):
        assert parse_protocol(text).digest == parse_protocol(TEXT).digest


def test_a_whole_number_and_its_float_are_one_value() -> None:
    whole = TEXT.replace("8.0", "8").replace("max-grad-norm = 1.0", "max-grad-norm = 1")
    whole = whole.replace("deadline-seconds = 900", "deadline-seconds = 900.0")
    assert whole != TEXT
    assert parse_protocol(whole).digest == parse_protocol(TEXT).digest


def test_a_default_that_is_written_out_changes_nothing() -> None:
    for written in (
        "views-per-patient = 4\n",
        'trainable = "all"\n',
        "every = 1\n",
        "[evaluation]\nevery = 1\nflips-and-rotations = true\n",
    ):
        left_out = changed(written, "")
        assert parse_protocol(left_out).digest == parse_protocol(TEXT).digest


# Another valid value for those leaves that cannot simply be counted up or lengthened.
OTHER_VALUES: dict[tuple[str | int, ...], Any] = {
    ("task",): None,  # one task so far
    ("images", "channels"): 3,
    ("images", "fit"): "resize",
    ("model", "name"): "resnet18",
    ("model", "initial-model"): "random",
    ("model", "trainable"): "head",
    ("training", "flips-and-rotations"): False,
    ("without-dp", "flips-and-rotations"): False,
    ("evaluation", "flips-and-rotations"): False,
    ("privacy", "mechanism"): "none",
    ("aggregation", "strategy"): "fedmedian",
    ("aggregation", "weights"): "cohort",
}


def leaves(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def with_leaf(fields: dict[str, Any], path: tuple[str | int, ...], value: Any) -> str:
    fields = copy.deepcopy(fields)
    table: Any = fields
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return tomli_w.dumps(fields)


@pytest.mark.parametrize("text", [TEXT, EXAMPLE.read_text()], ids=["this file's", "shipped"])
def test_any_single_value_changes_the_digest(text: str) -> None:
    fields = tomllib.loads(text)
    digests = {parse_protocol(text).digest: "the whole"}
    for path, value in leaves(fields):
        if path in OTHER_VALUES:
            other = OTHER_VALUES[path]
            if other is None:
                continue
        elif isinstance(value, str):
            other = value + "x"
        elif isinstance(value, int):
            other = value + 1
        else:
            other = value * 1.000001 if value < 1 else value + 1e-9
        assert other != value
        digest = parse_protocol(with_leaf(fields, path, other)).digest
        assert digest not in digests, f"{path} and {digests.get(digest)}"
        digests[digest] = str(path)
    # The whole, and every leaf but the task.
    assert len(digests) == len(list(leaves(fields))) > 30


def test_the_order_of_the_roster_is_part_of_the_study() -> None:
    fields = tomllib.loads(TEXT)
    fields["hospitals"].reverse()
    assert parse_protocol(tomli_w.dumps(fields)).digest != parse_protocol(TEXT).digest


# --- as text and as an object ----------------------------------------------------------------

NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,12}\Z")
SHARES = st.floats(0.001, 0.999)
POSITIVE = st.floats(1e-6, 1e6)
SETTINGS = {
    "proximal-mu": POSITIVE,
    "server-learning-rate": POSITIVE,
    "server-momentum": SHARES,
    "beta-1": SHARES,
    "beta-2": SHARES,
    "tau": POSITIVE,
    "trimmed-fraction": st.floats(0, 0.499),
    "malicious-hospitals": st.integers(0, 5),
}


@st.composite
def protocols(draw: st.DrawFn) -> NoduleStudy:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    strategy = draw(st.sampled_from(sorted(STRATEGY_SETTINGS)))
    aggregation: dict[str, Any] = {"strategy": strategy}
    for setting in (name.replace("_", "-") for name in STRATEGY_SETTINGS[strategy]):
        if draw(st.booleans()):
            aggregation[setting] = draw(SETTINGS[setting])
    if draw(st.booleans()):
        aggregation["ema"] = draw(SHARES)
    label = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
    classes = draw(st.lists(label, min_size=2, max_size=2, unique=True))
    return NoduleStudy.model_validate(
        {
            "study": draw(NAMES),
            "rounds": draw(st.integers(1, 100_000)),
            "images": {"classes": classes, "size": draw(st.integers(16, 1024))},
            "model": {"trainable": draw(st.sampled_from(["all", "norm-and-head", "head"]))},
            "evaluation": {
                "every": draw(st.integers(1, 100_000)),
                "flips-and-rotations": draw(st.booleans()),
            },
            "training": {
                "steps-per-round": draw(st.integers(1, 10_000)),
                "learning-rate": draw(POSITIVE),
                "sampling-rate": draw(SHARES),
            },
            "privacy": {
                "epsilon": draw(st.floats(1e-9, 100)),
                "delta": draw(st.floats(1e-12, 1e-9)),
            },
            "aggregation": aggregation,
            "participation": {"quorum": draw(st.integers(1, len(names)))},
            "hospitals": [
                {"name": name, "nominal-patients": draw(st.integers(1, 100_000))} for name in names
            ],
        }
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(protocol=protocols())
def test_its_text_reads_back_to_an_equal_protocol(protocol: StudyProtocol) -> None:
    back = parse_protocol(protocol.to_toml())
    assert back == protocol
    assert back.digest == protocol.digest
    assert back.to_toml() == protocol.to_toml()


def test_a_protocol_cannot_be_changed() -> None:
    protocol = parse_protocol(TEXT)
    for section, field in ((protocol, "rounds"), (protocol.privacy, "epsilon")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, 1)
    with pytest.raises(TypeError):
        protocol.hospitals[0] = protocol.hospitals[1]  # type: ignore[index]
    with pytest.raises(ValidationError, match="frozen"):
        protocol.hospitals[0].nominal_patients = 1
