"""Load weights files of Keras 3 (.weights.h5) and Keras 2 (.h5), with or without classes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.engines.keras import applications, backend
from tailorbird.errors import BackboneError

_CLASSES = 1000
"""Usual width of a classifier: ImageNet's classes."""


def load_file(
    name: str, model: Any, path: Path, arguments: Mapping[str, Any] | None = None
) -> None:
    """Load a weights file into a model that `applications.build(name, ...)` made at any size.

    The kind of file is decided by content, not by name. Raises BackboneError for a file that is no
    weights file, or of another network; the model's weights are then undefined.
    """
    legacy, width = _inspect(path)
    problem = _load(model, path, legacy=legacy)
    if problem is not None:
        # A file with classes on top may need the same number of layers: load it as a whole.
        application = applications.find(name)
        whole = applications.build(
            name, application.size, arguments=arguments, classes=width or _CLASSES
        )
        base = whole.weights[: len(model.weights)]
        alike = [tuple(one.shape) for one in base] == [tuple(one.shape) for one in model.weights]
        if not alike or _load(whole, path, legacy=legacy) is not None:
            raise BackboneError(
                f"{path} does not hold the weights of {application.name}: {problem}; give a file "
                "of just this network, as Keras publishes it or as model.save_weights writes it"
            )
        for variable, loaded in zip(model.weights, base, strict=True):
            variable.assign(loaded)
    applications.repair(model)


def _inspect(path: Path) -> tuple[bool, int]:
    """Return whether a weights file is of Keras 2, and its last layer's width (0 if unknown).

    Raises BackboneError.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" in root.attrs:
                last = [
                    name
                    for name in root.attrs["layer_names"]
                    if len(root[name].attrs.get("weight_names", ()))
                ]
                if not last:
                    raise BackboneError(f"{path} holds no weights")
                group = root[last[-1]]
                return True, int(group[group.attrs["weight_names"][-1]].shape[-1])
            if "layers" in root or "_layer_checkpoint_dependencies" in root:
                return False, 0
            inside = ", ".join(list(root)[:5]) or "nothing"
    except FileNotFoundError:
        raise BackboneError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise BackboneError(f"{path} is a folder; give the weights file itself") from None
    except OSError:
        raise BackboneError(
            f"{path} is not a weights file, or it is truncated: Keras keeps weights as HDF5, in "
            "files named .weights.h5 or .h5"
        ) from None
    raise BackboneError(f"{path} is HDF5, but not a weights file of Keras: it holds {inside}")


def _load(model: Any, path: Path, *, legacy: bool) -> str | None:
    """Load a file; return None if it had every weight of the model, else Keras' message."""
    ops = backend.load().ops
    for variable in model.weights:  # to detect weights that the file lacks
        if "float" in str(variable.dtype):
            variable.assign(ops.full(variable.shape, np.nan, dtype=variable.dtype))
    with _named(path, ".h5" if legacy else ".weights.h5") as named, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per layer that does not fit; one error is enough
        try:
            model.load_weights(named)
        except Exception as problem:  # KeyError, ValueError, OSError, each for the same reasons
            lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
            return next(
                (line for line in lines if "xpected" in line),
                lines[0] if lines else type(problem).__name__,
            )[:300]
    for variable in model.weights:
        if "float" in str(variable.dtype) and np.isnan(ops.convert_to_numpy(variable)).any():
            return f"it lacks {variable.path}"
    return None


@contextlib.contextmanager
def _named(path: Path, suffix: str) -> Any:
    """Yield the file under a name whose suffix Keras recognises."""
    right = path.name.endswith(".weights.h5") == (suffix == ".weights.h5") and path.name.endswith(
        ".h5"
    )
    if right:
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / f"file{suffix}"
        try:
            other.symlink_to(path.resolve())
        except OSError:  # systems where a user may not make links
            shutil.copyfile(path, other)
        yield str(other)
