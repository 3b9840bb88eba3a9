"""Fitted models as named arrays, in safetensors files: reading one never runs code, as reading a pickle does."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from kit.core.exceptions import KitError
from kit.core.files import TRAIN_AGAIN, write_atomically

Arrays = dict[str, np.ndarray]
LINEAR = ("coef", "intercept", "classes")  # what a fitted linear classifier of scikit-learn predicts with


def fitted(model: Any, *names: str) -> Arrays:
    """Return fitted attributes of a scikit-learn estimator; `coef` is its `coef_`."""
    return {name: np.asarray(getattr(model, f"{name}_")) for name in names}


def set_fitted(model: Any, arrays: Arrays, *names: str) -> Any:
    """Set what `fitted` returned, and return the model."""
    for name in names:
        setattr(model, f"{name}_", arrays[name])
    return model


def put_under(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays with their names below `prefix`."""
    return {f"{prefix}.{name}": values for name, values in arrays.items()}


def take_under(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays whose names `put_under` put below `prefix`."""
    return {name.removeprefix(f"{prefix}."): arrays[name] for name in arrays if name.startswith(f"{prefix}.")}


def text_array(value: Any) -> np.ndarray:
    """Return texts and whatever else JSON can write as an array of bytes."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def array_text(values: np.ndarray) -> Any:
    """Return what `text_array` was given."""
    return json.loads(values.tobytes())


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write the arrays to a safetensors file. Raise KitError if that is not possible."""
    contiguous = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    write_atomically(path, functools.partial(safetensors.numpy.save_file, contiguous))


def read_arrays(path: Path) -> Arrays:
    """Return what `write_arrays` wrote. Raise KitError if the file is missing or damaged."""
    if not path.is_file():
        raise KitError(f"{path} is missing: the run keeps no model, so {TRAIN_AGAIN}.")
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, SafetensorError) as error:
        raise KitError(f"{path} cannot be read ({error}): {TRAIN_AGAIN}.") from error
