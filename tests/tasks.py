"""A small study of each task, on synthetic patients: what a test of all tasks runs through."""

import tomllib
from typing import Any

import tomli_w

from common.protocol import StudyProtocol, parse_protocol
from common.tasks import names

TASKS = names()
"""Every task that there is: one without a small study here fails, and is to get one."""

RECORDS = """
validation-fraction = 0.34
columns = [
    { name = "age", kind = "number", unit = "years", range = [20, 90] },
    { name = "pressure", kind = "number", unit = "mmHg", range = [80, 200], missing = "indicator" },
    { name = "pain", kind = "category", categories = ["none", "typical", "other"] },
]
"""

_OWN = {
    "nodule-classification": """
        images = { classes = ["non-nodule", "nodule"], size = 16, validation-fraction = 0.34 }
        model = { initial-model = "random" }
    """,
    "risk": f"""
        [records]
        classes = ["no", "yes"]
        {RECORDS}
    """,
    "summary": f"""
        [records]
        {RECORDS}
    """,
    "survival": f"""
        [survival]
        edges = [100, 200, 400, 800]
        [records]
        {RECORDS}
    """,
    "sequence": """
        [sequences]
        validation-fraction = 0.34
        classes = ["no", "yes"]
        steps = 6
        step = 4
        variables = [
            { name = "heart rate", unit = "/min", range = [20, 220] },
            { name = "temperature", unit = "°C", range = [30, 43] },
        ]
    """,
}

_TRAINING = "steps-per-round = 2, learning-rate = 0.1, sampling-rate = 0.5"
_OF_A_MEAN = 3.4642  # its longest gradient: no shorter norm would leave it as it is


def small(task: str, mechanism: str = "dp-sgd", rounds: int = 3, **cohorts: int) -> StudyProtocol:
    """A study of `task` that trains in seconds; `cohorts` are nominal patients by hospital."""
    cohorts = cohorts or {"north": 10, "west": 4}
    training, norm = ("", _OF_A_MEAN) if task == "summary" else (_TRAINING, 1.0)
    roster = ", ".join(f'{{ name = "{n}", nominal-patients = {c} }}' for n, c in cohorts.items())
    return parse_protocol(
        f"""
        study = "small-{task}"
        task = "{task}"
        rounds = {rounds}
        hospitals = [{roster}]
        training = {{ {training} }}
        privacy = {{ mechanism = "{mechanism}", epsilon = 8.0, delta = 1e-5, max-grad-norm = {norm} }}
        participation = {{ quorum = {len(cohorts)}, deadline-seconds = 60 }}
        {_OWN[task]}
        """
    )


def changed(protocol: StudyProtocol, **tables: dict[str, Any]) -> StudyProtocol:
    """`protocol` with other values in its tables; names with "_" stand for those with "-"."""
    document = tomllib.loads(protocol.to_toml())
    for table, values in tables.items():
        kebab = {name.replace("_", "-"): value for name, value in values.items()}
        document[table] = {**document.get(table, {}), **kebab}
    return parse_protocol(tomli_w.dumps(document))
