"""Import Keras on the backend that is chosen or installed, without its log output."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from typing import Any

from tailorbird import installing, privacy
from tailorbird.errors import MissingExtra, SettingsError

BACKENDS = {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}
"""Keras' backends, each with the distribution to install."""

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
"""Log levels that libraries read when they are imported; a user's own value is kept."""


def load() -> Any:
    """Return the module `keras`, imported on first use.

    The backend is that of KERAS_BACKEND, else the first of TensorFlow, JAX and PyTorch that is
    installed. Raises MissingExtra when Keras or the backend is not installed, SettingsError for an
    unknown KERAS_BACKEND.
    """
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted and wanted not in BACKENDS:
        raise SettingsError(
            f"KERAS_BACKEND is {wanted!r}; set it to tensorflow, jax or torch, or unset it"
        )
    there = [name for name in BACKENDS if importlib.util.find_spec(name) is not None]
    if importlib.util.find_spec("keras") is None or not there:
        missing = (
            "Keras is not installed" if there else "Keras and a backend for it are not installed"
        )
        raise MissingExtra(
            f"{missing}; to install Keras with TensorFlow for CPUs: {installing.install('keras')}"
        )
    if wanted and wanted not in there:
        raise MissingExtra(
            f"KERAS_BACKEND is {wanted}, which is not installed: pip install {BACKENDS[wanted]}, "
            f"or set KERAS_BACKEND to {' or '.join(there)}"
        )
    os.environ["KERAS_BACKEND"] = wanted or there[0]
    if os.environ["KERAS_BACKEND"] != "tensorflow":
        # Keras imports TensorFlow for files of some kinds, if it is installed, and then TensorFlow
        # writes two lines about oneDNN whatever its log level is. It computes nothing there.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if "keras" not in sys.modules:
        for variable, value in _QUIET.items():
            os.environ.setdefault(variable, value)
        for library in ("keras", "matplotlib"):  # Keras imports matplotlib where it is installed
            privacy.redirect_files(library)
        for name in ("absl", "tensorflow", "jax"):
            logging.getLogger(name).setLevel(logging.ERROR)
        with privacy.stderr_discarded():
            importlib.import_module("keras")
    import keras

    return keras
