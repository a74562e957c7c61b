"""Keras Applications: their names, sizes and preprocessing, and how to build them.

The list is that of the installed Keras; preprocessing and sizes are found by calling Keras, not
kept in a table.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailorbird.engines.keras import backend
from tailorbird.engines.preprocessing import PREPROCESS, prepare
from tailorbird.errors import BackboneError, SettingsError

USUAL_SIZE = 224
"""Size that the weights were trained at, unless Keras states another."""

_LICENCES = {
    "VGG": "CC-BY-4.0",
    "ResNet": "MIT",
    "Xception": "MIT",
    "DenseNet": "BSD-3-Clause",
    "ConvNeXt": "MIT",
}
"""Licences of published weights in Keras' documentation, by the beginning of the name."""

OTHER_LICENCE = "Apache-2.0"

_LARGER_DATA = ("ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge")

# Keras adds a Rescaling to EfficientNet B0 to B7 when it loads the published weights, whose
# Normalization holds deviations in place of variances (tensorflow/tensorflow#49930).
_PUBLISHED_AS_VARIANCE = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Application:
    """A network of keras.applications.

    Attributes:
        name: as Keras writes it.
        preprocess: a key of `preprocessing.PREPROCESS`.
        size: side in pixels that its weights were trained at.
        least_size: smallest side it accepts.
        licence: licence of the published weights.
        trained_on: training data of the published weights.
    """

    name: str
    preprocess: str
    size: int
    least_size: int
    licence: str
    trained_on: str

    def check_size(self, size: int) -> None:
        """Raise SettingsError for a side too small for the network or too large for a backbone."""
        if not self.least_size <= size <= 2048:
            raise SettingsError(
                f"size = {size}; {self.name} takes images of {self.least_size} to 2048 pixels, and "
                f"its weights were trained at {self.size}"
            )


def names() -> list[str]:
    """Return the names of all networks, sorted."""
    return sorted(
        name
        for name, value in vars(backend.load().applications).items()
        if inspect.isfunction(value)
    )


@functools.cache
def find(name: str) -> Application:
    """Return a network by its name, in any case. Raises SettingsError with similar names."""
    known = {each.casefold(): each for each in names()}
    meant = known.get(name.casefold())
    if meant is None:
        close = [known[key] for key in difflib.get_close_matches(name.casefold(), known, 3, 0.6)]
        advice = (
            f"did you mean {' or '.join(close)}?"
            if close
            else f"available: {', '.join(known.values())}"
        )
        raise SettingsError(f"Keras has no application named {name!r}; {advice}")
    # Keras checks sizes before it builds or downloads anything, and states what it accepts.
    least = re.search(r"at least (\d+)", _refusal(meant, weights=None, include_top=False))
    usual = re.search(r"should be \((\d+)", _refusal(meant, weights="imagenet", include_top=True))
    licence = next(
        (licence for begin, licence in _LICENCES.items() if meant.startswith(begin)), OTHER_LICENCE
    )
    return Application(
        meant,
        _preprocess(meant),
        int(usual[1]) if usual else USUAL_SIZE,
        int(least[1]) if least else 32,
        licence,
        "ImageNet-21k, then ImageNet-1k" if meant in _LARGER_DATA else "ImageNet-1k",
    )


def build(
    name: str,
    size: int,
    *,
    weights: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    classes: int = 0,
) -> Any:
    """Return a Keras application from images (S, S, 3) to mean-pooled features.

    The architecture does not depend on `weights`, so weights can be moved between models.

    Args:
        name: name as in keras.applications, upper or lower case.
        size: S in pixels.
        weights: None for random ones, or `imagenet` for those that Keras downloads.
        arguments: further arguments of the application, such as alpha.
        classes: if not 0, the output is Keras' own classifier instead: probabilities
            (N, classes), 1000 for the published weights.

    Raises SettingsError for an invalid name or size, BackboneError when Keras refuses the
    arguments, and what Keras raises when a download fails.
    """
    application = find(name)
    application.check_size(size)
    if weights is None:
        return _call(application, size, None, arguments, classes)
    # Keras gives the published classifier at the size it was trained at only.
    published = _call(
        application, application.size if classes else size, weights, arguments, classes
    )
    model = published
    if application.name.startswith("EfficientNetB") or (classes and size != application.size):
        model = _call(application, size, None, arguments, classes)
        shapes = [tuple(one.shape) for one in model.weights]
        if shapes != [tuple(one.shape) for one in published.weights]:
            raise SettingsError(
                f"size = {size}; the classifier of {application.name} fits images of "
                f"{application.size} pixels only"
            )
        model.set_weights(published.get_weights())
    repair(model)
    return model


def repair(model: Any) -> None:
    """Correct EfficientNet's published variances and update Normalization after loading weights."""
    for layer in model._flatten_layers():
        if type(layer).__name__ != "Normalization" or not hasattr(layer, "adapt_variance"):
            continue
        found = np.asarray(backend.load().ops.convert_to_numpy(layer.adapt_variance))
        if found.shape == (3,) and np.allclose(found, _PUBLISHED_AS_VARIANCE, rtol=1e-3):
            layer.adapt_variance.assign(found**2)
        layer.finalize_state()


def _call(
    application: Application,
    size: int,
    weights: str | None,
    arguments: Mapping[str, Any] | None,
    classes: int,
) -> Any:
    function = getattr(backend.load().applications, application.name)
    top = (
        {"include_top": True, "classes": classes}
        if classes
        else {"include_top": False, "pooling": "avg"}
    )
    settings = {**(arguments or {}), **top, "input_shape": (size, size, 3), "weights": weights}
    try:
        with _channels_last(), warnings.catch_warnings():
            # MobileNet warns of all but its usual sizes, although its weights work there too.
            warnings.simplefilter("ignore")
            return function(**settings)
    except (TypeError, ValueError) as problem:
        if weights is not None:
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in (arguments or {}).items())
        raise BackboneError(
            f"Keras cannot build {application.name}({given}) for {size} x {size} pixels: "
            f"{str(problem).splitlines()[0][:300]}"
        ) from None


@contextlib.contextmanager
def _channels_last() -> Iterator[None]:
    """Build with the channels last, as weights files are, whatever keras.json says."""
    config = backend.load().config
    before = config.image_data_format()
    config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        config.set_image_data_format(before)


def _refusal(name: str, **arguments: Any) -> str:
    """Return Keras' message about an image of one pixel."""
    function = getattr(backend.load().applications, name)
    try:
        with _channels_last():
            function(input_shape=(1, 1, 3), **arguments)
    except ValueError as refused:
        return str(refused)
    return ""


def _preprocess(name: str) -> str:
    """Return what the module's preprocess_input does to a few pixels, a key of PREPROCESS.

    Raises BackboneError for a new kind.
    """
    applications = backend.load().applications
    module = getattr(applications, getattr(applications, name).__module__.rpartition(".")[2])
    pixels = np.array([[[[0, 40, 255], [200, 3, 90]]]], np.float32)
    seen = np.asarray(module.preprocess_input(pixels.copy(), data_format="channels_last"))
    for mode in PREPROCESS:
        if np.allclose(prepare(pixels, mode), seen, atol=1e-4):
            return mode
    raise BackboneError(
        f"the preprocessing of keras.applications.{name} is not known to this version; "
        "use a newer version of tailorbird"
    )
