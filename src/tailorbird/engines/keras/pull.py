"""Pull Keras Applications: as backbone files, or as classifiers of ImageNet's 1000 classes.

References are `keras:NAME`, NAME as in keras.applications, in any case. A backbone that was pulled
is an ONNX file: using it again needs neither Keras nor a connection.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird import onnx_files
from tailorbird.backbone.catalogue import SUFFIX, installed_version
from tailorbird.backbone.catalogue import folder as catalogue_folder
from tailorbird.engines.keras import applications, backend, description
from tailorbird.engines.keras.applications import Application
from tailorbird.engines.keras.converter.backbone import CONVERTER, export, verify
from tailorbird.engines.keras.weights_files import load_file
from tailorbird.engines.protocol import PublishedClassifier
from tailorbird.errors import BackboneError, HubError, SettingsError, StorageError, TailorbirdError
from tailorbird.files import sha256_file, write_bytes
from tailorbird.inference import first_line
from tailorbird.progress import NoProgress, Progress
from tailorbird.rendering.probes import probe_images

SCHEME = "keras:"

CLASSES = 1000
"""Classes of ImageNet, the width of the published classifiers."""

PUBLISHED = "imagenet, as Keras downloads them"


def pull(
    reference: str,
    *,
    size: int | None = None,
    weights: str | Path | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a Keras application as a backbone file and return its path.

    Args:
        reference: `keras:NAME`.
        size: side of the square input in pixels; by default the one its weights were trained at.
        weights: a weights file to load instead of downloading: Keras 3 (.weights.h5) or Keras 2
            (.h5), with or without classes on top.
        folder: where to write; by default the catalogue. An equal file there is used again.
        progress: receives notes.

    Raises:
        SettingsError: invalid reference or size.
        MissingExtra: Keras is not installed.
        HubError: the download failed.
        BackboneError: the weights file is of another network, or the result disagrees with Keras.
        StorageError: the disk is full.
    """
    note = (progress or NoProgress()).note
    folder = folder or catalogue_folder()
    name = name_of(reference)
    file = _checked(weights)
    digest = sha256_file(file) if file is not None else None
    kept = _kept(folder, name, size, digest)
    if kept is not None:
        facts = onnx_files.metadata(onnx_files.read_audited(kept, BackboneError))
        which = "" if digest else f"; its weights: {facts.get('weights', 'not stated')}"
        if digest is None and "weights_sha256" in facts:
            which += f"; to get those that Keras publishes, delete {kept} first"
        note(f"{kept.name} is already there{which}")
        return kept

    model, application, side = _load(name, size, file, note, classes=0)
    stem = application.name + (f"-{side}" if side != application.size else "")
    keras = backend.load()
    framework = f"Keras {keras.__version__} on {keras.backend.backend()}"
    about = {
        "name": stem,
        "adapted_by": f"tailorbird {installed_version()}, {framework}",
        **_origin(application, file),
        **description.describe(application=application.name, preprocess=application.preprocess),
    }
    note(f"converting {application.name} for images of {side} x {side} pixels")
    proto = export(model, preprocess=application.preprocess, size=side, about=about)
    gap = verify(proto, model, application.preprocess, probe_images(side))
    target = folder / f"{stem}{SUFFIX}"
    write_bytes(target, proto.SerializeToString())
    note(
        f"{target.name} is ready; it agrees with Keras to {gap:.1g} of the largest feature; "
        f"licence: {about['licence']}"
    )
    return target


def published_classifier(
    reference: str, size: int | None, weights: Path | None, progress: Progress | None
) -> PublishedClassifier:
    """Return a Keras application with its classifier on top; arguments and errors as for `pull`."""
    from tailorbird.engines.keras.classifier import classifier_of

    note = (progress or NoProgress()).note
    file = _checked(weights)
    model, application, side = _load(name_of(reference), size, file, note, classes=CLASSES)
    return PublishedClassifier(
        classifier_of(model, reference, side),
        application.preprocess,
        f"stated by keras.applications for {application.name}",
        {"name": application.name, **_origin(application, file)},
    )


def imagenet_classes() -> list[str]:
    """Return ImageNet's 1000 class names in the order of the outputs; some occur twice.

    Raises HubError when they cannot be downloaded.
    """
    keras = backend.load()
    decode = keras.applications.imagenet_utils.decode_predictions
    try:
        with quiet():
            ranked = decode(np.eye(CLASSES, dtype=np.float32), top=1)
    except Exception as problem:  # Keras raises a plain Exception for a failed download
        raise HubError(
            f"the names of ImageNet's classes could not be downloaded ({first_line(problem)}): "
            "check the connection and run again, or give them with --classes FILE, one per line "
            "in the order of the outputs, or Keras' imagenet_class_index.json"
        ) from None
    return [str(row[0][1]) for row in ranked]


def name_of(reference: str) -> str:
    """Return NAME of keras:NAME. Raises SettingsError."""
    found = re.fullmatch(r"keras:(\w+)", reference.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise SettingsError(
            f"{reference!r} is not a valid reference to a Keras application; give keras:NAME, for "
            "example keras:Xception or keras:MobileNetV2"
        )
    return found[1]


def _checked(weights: str | Path | None) -> Path | None:
    """Return the weights file as a path. Raises BackboneError when there is none."""
    file = Path(weights) if weights is not None else None
    if file is not None and not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise BackboneError(f"{file} {what}; give a weights file of Keras")
    return file


def _load(
    name: str, size: int | None, file: Path | None, note: Any, *, classes: int
) -> tuple[Any, Application, int]:
    """Return a Keras application with weights, the facts about it, and its input size.

    classes: CLASSES for its classifier, 0 for pooled features.
    """
    application = applications.find(name)
    side = size or application.size
    application.check_size(side)
    if file is None:
        note(
            f"loading the published weights of {application.name}; Keras downloads them the first "
            "time"
        )
        with quiet(), translated(application.name):
            model = applications.build(application.name, side, weights="imagenet", classes=classes)
        return model, application, side
    note(f"loading {file.name}")
    model = applications.build(application.name, side, classes=classes)
    try:
        load_file(application.name, model, file)
    except BackboneError as error:
        if not classes:
            raise
        raise BackboneError(
            f"{error} (--with-classes also needs the weights of the classifier of {classes} "
            "classes)"
        ) from None
    return model, application, side


def _kept(folder: Path, name: str, size: int | None, digest: str | None) -> Path | None:
    """Return the file that an equal request wrote before, without Keras.

    digest: SHA-256 of the weights file, when one was given.
    """
    stems = {name.casefold()} | ({f"{name}-{size}".casefold()} if size else set())
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name.removesuffix(SUFFIX).casefold() not in stems:
            continue
        try:
            proto = onnx_files.read_audited(path, BackboneError)
        except BackboneError:
            continue  # damaged: it is written again
        facts = onnx_files.metadata(proto)
        side = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        source = facts.get("source", "").casefold() == f"{SCHEME}{name}".casefold()
        current = facts.get("converter") == str(CONVERTER)
        wanted = size in (None, side) and digest in (None, facts.get("weights_sha256"))
        if source and current and wanted:
            return path
    return None


def _origin(application: Application, file: Path | None) -> dict[str, str]:
    """Return what is known of the weights; of those in a file, only the file."""
    source = {"source": f"{SCHEME}{application.name}"}
    licence, data = application.licence, application.trained_on
    if file is None:
        return {**source, "licence": licence, "trained_on": data, "weights": PUBLISHED}
    published = "where they are Keras' published weights"
    return {
        **source,
        "weights": f"the file {file.name}",
        "weights_sha256": sha256_file(file),
        "licence": f"not stated ({licence} {published})",
        "trained_on": f"not stated ({data} {published})",
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Keras' progress bars off standard output, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Translate what a failed download raises into HubError or StorageError."""
    try:
        yield
    except TailorbirdError:
        raise
    except Exception as problem:  # Keras raises a plain Exception for a failed download
        first = first_line(problem)
        found = re.search(r"https?://[^\s:]+", first)
        on_disk = isinstance(problem, OSError) and problem.errno and problem.filename
        if found is None and on_disk:
            raise StorageError(
                f"the weights of {name} could not be stored in {_keras_folder()}: "
                f"{getattr(problem, 'strerror', '')}; free some space, or set KERAS_HOME to "
                "another disk, and run again"
            ) from problem
        if found is None:
            raise HubError(
                f"the weights of {name} could not be loaded: {first}; delete the partial download "
                f"in {_keras_folder()} and run again, or give a weights file with --weights FILE"
            ) from problem
        url = found[0]
        why = first.partition(url)[2].strip(": ").removeprefix("None -- ")
        raise HubError(
            f"{url} cannot be reached ({why or first}): check the connection and run again; or "
            f"download {url.rpartition('/')[2]} on another machine and give it with --weights "
            f"FILE, or put it into {_keras_folder()}, where Keras looks first"
        ) from problem


def _keras_folder() -> Path:
    """Return the folder of downloaded weights."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"
