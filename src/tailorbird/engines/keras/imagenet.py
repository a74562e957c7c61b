"""Keras Applications with their classifier of 1000 ImageNet classes on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.engines.keras import applications, backend
from tailorbird.engines.keras.pull import name_of, quiet, translated
from tailorbird.engines.keras.weights_files import load_file
from tailorbird.errors import BackboneError, HubError

CLASSES = 1000


def build(
    reference: str, size: int | None, weights: Path | None, say: Callable[[str], None]
) -> tuple[Any, applications.Application, int]:
    """A Keras application with its classifier and weights, what is known of it, and its size in pixels.

    reference: `keras:NAME`. weights: a weights file with the classifier on top, instead of Keras' download. Raises as `pull.pull`.
    """
    name = name_of(reference)
    application = applications.find(name)
    wanted = size or application.size
    application.check_size(wanted)
    if weights is None:
        say(
            f"loading the published weights of {application.name}; Keras downloads them the first time"
        )
        with quiet(), translated(application.name):
            return (
                applications.build(application.name, wanted, weights="imagenet", classes=CLASSES),
                application,
                wanted,
            )
    if not weights.is_file():
        raise BackboneError(
            f"{weights} {'is a folder' if weights.is_dir() else 'does not exist'}; give a weights file of Keras"
        )
    say(f"loading {weights.name}")
    model = applications.build(application.name, wanted, classes=CLASSES)
    try:
        load_file(application.name, model, weights)
    except BackboneError as error:
        raise BackboneError(
            f"{error} (--with-classes needs the weights of the classifier of {CLASSES} classes too)"
        ) from None
    return model, application, wanted


def class_names() -> list[str]:
    """ImageNet's 1000 classes as Keras names them, in the order of the outputs; some names stand twice. Raises HubError."""
    keras = backend.load()
    try:
        with quiet():
            ranked = keras.applications.imagenet_utils.decode_predictions(
                np.eye(CLASSES, dtype=np.float32), top=1
            )
    except Exception as problem:  # Keras raises a plain Exception for a failed download
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
        raise HubError(
            f"the names of ImageNet's classes could not be downloaded ({first}): check the connection and run again, or give them with "
            "--classes FILE, one on each line in the order of the outputs, or Keras' imagenet_class_index.json"
        ) from None
    return [str(row[0][1]) for row in ranked]
