"""The last check before bytes leave the hospital: an allow-list, and everything else stays.

    frame ─> header: a known kind, just its keys, each in its form ─> arrays: the study's ─> log ─> out

It reads the bytes themselves, as whoever gets them will, and trusts nothing of what made them. Knows no
torch and no network: a security officer can read it alone.
"""

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from client.egress_log import EgressLog
from common import arrays
from common.arrays import Spec
from common.errors import EgressError, IntramuralError, ModelError

MAGIC = b"INTRAM01"
LARGEST_CELL = 1e9  # of a histogram: far above any count, and no place to hide 300 digits
MOST_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Allowed:
    """What an answer to one permitted request may hold: of this study and round, with this update.

    A histogram has two rows of `bins` cells; `largest_norm` bounds the update's L2 norm from public
    constants (common/bounds.py).
    """

    study: str
    round: int
    update_spec: Spec
    bins: int
    largest_norm: float


def large_enough(groups: Iterable[int], smallest_group: int) -> bool:
    """Whether a histogram of so many patients in each group may be made into a release at all.

    Every group (class) must have `smallest_group`: a class of three beside one of ninety would be
    known from the total. A histogram that may not is left out and said to be, which is not zero.
    """
    return all(patients >= smallest_group for patients in groups)


def release(frame: bytes, hospital: str, allowed: Allowed | None, log: EgressLog) -> bytes:
    """`frame`, checked and written down: the only way out of the vault.

    `allowed` None allows a hello and a refusal, and no answer. EgressError names what is wrong; then
    nothing leaves, nor when the log cannot be written.
    """
    header, data = _opened(frame)
    kind = str(header["kind"])
    rules = {"hello-reply": _hello(hospital), "refusal": _refusal(header)}
    if allowed is not None:
        rules |= {"train-reply": _train(allowed), "evaluate-reply": _answer(allowed)}
    if kind not in rules:
        raise EgressError(f"a reply of the kind '{kind[:40]}' may not leave now")
    rule = {"kind": _is(kind), "names": _is_names, **rules[kind]}
    if header.keys() != rule.keys():
        raise EgressError(f"a {kind} has other keys than it may have")
    for key, fits in rule.items():
        if not fits(header[key]):
            raise EgressError(f"'{key}' of a {kind} is not what it may be")
    _check_arrays(header["names"], data, allowed if kind == "train-reply" else None)
    log.write(frame, kind, header.get("code"), header.get("ledger_head"))
    return frame


def _opened(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes of the arrays."""
    start = len(MAGIC) + 4
    if frame[: len(MAGIC)] != MAGIC or len(frame) < start:
        raise EgressError("the reply is not a frame of this version")
    (length,) = struct.unpack("<I", frame[len(MAGIC) : start])
    if length > MOST_HEADER_BYTES:
        raise EgressError(f"the reply's header has {length} bytes, at most {MOST_HEADER_BYTES} may")
    text = frame[start : start + length]
    try:
        header = json.loads(text)
        canonical = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise EgressError("the reply's header is not JSON") from error
    # One way only to write what it says: none is left to say something else by blanks or order.
    if not isinstance(header, dict) or "kind" not in header or canonical.encode() != text:
        raise EgressError("the reply's header is not an object in canonical form")
    return header, frame[start + length :]


def _check_arrays(names: list[str], data: bytes, allowed: Allowed | None) -> None:
    """EgressError unless `data` is just the update that is `allowed`, or holds no array."""
    spec: Spec = {} if allowed is None else allowed.update_spec
    try:
        found = load(data)
        if sorted(names) != sorted(found):
            raise EgressError("the header names other arrays than the reply holds")
        arrays.check({name: found[name] for name in names}, spec)
    except ModelError as error:
        raise EgressError(f"the arrays are not what the study allows: {error}") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise EgressError("the arrays of the reply cannot be read") from error
    if save(found) != data:
        raise EgressError("the reply's arrays, written again, are other bytes than it holds")
    if allowed is not None and (norm := arrays.norm(found)) > allowed.largest_norm:
        raise EgressError(
            f"the update has the norm {norm:.3g} and an honest one at most "
            f"{allowed.largest_norm:.3g}: something is wrong with this hospital's training"
        )


_Rules = Mapping[str, Callable[[Any], bool]]


def _hello(hospital: str) -> _Rules:
    return {"hospital": _is(hospital)}


def _refusal(header: Mapping[str, Any]) -> _Rules:
    """A code of the catalogue with its own fixed text."""
    catalogue = {error.code: error.public_text for error in _all_errors(IntramuralError)}
    code = str(header.get("code"))
    return {"code": lambda value: value in list(catalogue), "text": _is(catalogue.get(code))}


def _answer(allowed: Allowed) -> _Rules:
    return {
        "study": _is(allowed.study),
        "round": _is(allowed.round),
        "request": _is_hash,
        "ledger_head": _is_hash,
        "previous_head": lambda value: value is None or _is_hash(value),
        "policy": _is_hash,
        "histogram": lambda value: value is None or _is_histogram(value, 2 * allowed.bins),
        "histogram_noise": lambda value: value is None or _is_number(value),
        "suppressed": lambda value: isinstance(value, bool),
    }


def _train(allowed: Allowed) -> _Rules:
    return {**_answer(allowed), "noise_multiplier": _is_number}


def _is(expected: object) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(expected) and value == expected


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST_CELL  # type: ignore[operator]


def _is_histogram(value: object, cells: int) -> bool:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{8 * cells}}}", value):
        return False
    found = struct.unpack(f"<{cells}f", bytes.fromhex(value))
    return all(abs(cell) <= LARGEST_CELL for cell in found)  # false for what is not a number


def _all_errors(root: type[IntramuralError]) -> Iterable[type[IntramuralError]]:
    yield root
    for one in root.__subclasses__():
        yield from _all_errors(one)
