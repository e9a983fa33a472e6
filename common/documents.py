"""TOML documents as frozen models: an invalid one cannot exist, and a refusal is one sentence.

Keys are kebab-case, unknown ones are refused with the nearest known name.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from common.files import sha256

_MOST_SHOWN = 200  # characters of a refused value or a parser's message in an error

# A key of more than 16 parts (no document has more than 3), in quotes or not: tomllib takes the square
# of a key's parts in time and memory, 280 MB for 16 kB. Linear: a token is tried from its start only.
_LONG_KEY = re.compile(
    r"""(?:(?:(?<![\w-])[\w-]++|(?<!\\)"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16}"""
)

# Names become folder names, table rows and log words, so they stay plain.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
# What a line of a screen cannot show as it is: a terminal's commands, line ends, and marks that turn the
# direction of writing, by which an approved text would look like another one.
UNSHOWABLE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
# A column, category or class as a hospital's file writes it: one line, no blank at either end.
Title = Annotated[
    str, Field(pattern=rf"^[^\s{UNSHOWABLE}]([^{UNSHOWABLE}]{{0,98}}[^\s{UNSHOWABLE}])?$")
]
_UNSHOWABLE = re.compile(f"[{UNSHOWABLE}]")

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Bounded: Python prints no integer of thousands of digits, and a float holds none beyond 1e308.
PositiveInt = Annotated[int, Field(ge=1, le=10**9)]


def tables_of(text: str) -> dict[str, Any]:
    """The TOML document `text`; ValueError for anything else, whatever it is and in no time."""
    if _LONG_KEY.search(text):
        raise ValueError("a key has more than 16 parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def kebab(name: str) -> str:
    """The name of a field as it is written in a TOML file."""
    return name.replace("_", "-")


class Document(BaseModel):
    """A document, or a table of one: immutable, no unknown keys, kebab-case names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=kebab, populate_by_name=True
    )

    def to_toml(self) -> str:
        """The document as text that reads back to an equal one."""
        return tomli_w.dumps(self.model_dump(by_alias=True, exclude_none=True, mode="json"))


def canonical_digest(document: Document) -> str:
    """SHA-256 over every value, 64 hex digits; comments, order and formatting of a file do not count."""
    fields = document.model_dump(by_alias=True, exclude_none=True, mode="json")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode())


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the first problem that pydantic found in a document of type `model`."""
    # An unknown key first: a misspelt key also shows up as a missing one, and the hint helps more.
    problem = min(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in problem["loc"]) or model.__name__
    found = problem.get("input")
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        near = _nearest(key, _known_keys(_table(model, problem["loc"][:-1]))) or _nearest(
            key, _known_keys(model)
        )
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{shown(where)}'{hint}"
    if problem["type"] == "missing":
        return f"'{where}' is missing"
    if problem["type"] == "value_error":
        return shown(problem["msg"].removeprefix("Value error, "))
    # pydantic writes "Input should be ...", "String should match ...", "Tuple should have ...".
    return f"'{where}' is {shown(found, repr)} but must {problem['msg'].partition(' should ')[2]}"


def shown(value: object, form: Callable[[object], str] = str) -> str:
    """`value` in a sentence: on one line, not endless, no command to a terminal, whatever was sent."""
    try:
        text = _UNSHOWABLE.sub("\ufffd", " ".join(form(value).split()))
    except ValueError:  # Python does not print integers of thousands of digits
        return "a huge number"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _nearest(key: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(key, sorted(set(known)), n=1, cutoff=0.5)


def _table(model: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel]:
    """The model of the table at `path` in a document of type `model`; numbers are places in an array."""
    for name in path:
        fields = (field for field in model.model_fields.values() if field.alias == name)
        model = next((part for field in fields for part in _models_in(field)), model)
    return model


def _models_in(field: FieldInfo) -> Iterator[type[BaseModel]]:
    """The models in a field's type: itself, or what it is a tuple of or may be."""
    for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield part


def _known_keys(model: type[BaseModel]) -> Iterator[str]:
    for field in model.model_fields.values():
        if field.alias:
            yield field.alias
        for part in _models_in(field):
            yield from _known_keys(part)
