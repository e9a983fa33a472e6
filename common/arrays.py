"""Named float32 arrays: the form in which models and updates travel and are stored. NumPy only.

An `Arrays` is an ordered mapping name -> float32 array. Its order is the order of the model's own
state and is part of the contract: flat vectors, noise and digests follow it.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError

type_float32 = np.dtype(np.float32)
Array = NDArray[np.float32]
Arrays = dict[str, Array]
Spec = Mapping[str, tuple[int, ...]]  # name -> shape


def check(arrays: Mapping[str, NDArray[np.generic]], spec: Spec) -> None:
    """ModelError unless `arrays` has exactly the names, order, shapes and dtype of `spec` and is finite.

    The first deviation is named. This is run on everything that arrives, at either end.
    """
    check_spec(arrays, spec)
    check_finite(arrays)


def check_spec(arrays: Mapping[str, NDArray[np.generic]], spec: Spec) -> None:
    """The first half of `check`: names, order, shapes and dtype."""
    if list(arrays) != list(spec):
        missing = [name for name in spec if name not in arrays]
        extra = [name for name in arrays if name not in spec]
        raise ModelError(
            f"expected {len(spec)} arrays in the protocol's order; "
            f"missing {missing[:3]}, unexpected {extra[:3]}"
        )
    for name, shape in spec.items():
        array = arrays[name]
        if array.dtype != type_float32:
            raise ModelError(f"array '{name}' has dtype {array.dtype}, expected float32")
        if array.shape != shape:
            raise ModelError(f"array '{name}' has shape {array.shape}, expected {shape}")


def check_finite(arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """The second half of `check`: every value is finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ModelError(f"array '{name}' holds a value that is not finite")


def difference(local: Arrays, received: Arrays) -> Arrays:
    """The update: local minus received, for the names in `local`, in their order."""
    return {name: local[name] - received[name] for name in local}


def apply_update(arrays: Arrays, update: Arrays) -> Arrays:
    """`arrays` plus `update`; names that the update lacks (frozen layers) stay as they are."""
    return {name: a + update[name] if name in update else a for name, a in arrays.items()}


def norm(arrays: Arrays) -> float:
    """L2 norm over all values of all arrays."""
    return float(np.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays.values())))


def digest(arrays: Arrays) -> str:
    """SHA-256 over names, shapes and bytes in order, 64 hex digits."""
    state = hashlib.sha256()
    for name, array in arrays.items():
        # JSON ends where it ends, so no name can pass for another array's head.
        state.update(json.dumps([name, array.shape, str(array.dtype)]).encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
