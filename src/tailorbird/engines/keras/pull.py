"""Backbones from Keras Applications: Keras' own download or a weights file, converted, checked against Keras, kept.

    keras:NAME        NAME as in keras.applications, in whatever case

Once pulled, a backbone is an ONNX file like any other: using it again needs neither Keras nor a connection.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from tailorbird import onnx_files
from tailorbird.backbone.catalogue import SUFFIX
from tailorbird.backbone.catalogue import folder as catalogue_folder
from tailorbird.engines.keras import applications, backend, description
from tailorbird.engines.keras.converter.backbone import CONVERTER, export, photos, verify
from tailorbird.engines.keras.weights_files import load_file
from tailorbird.errors import BackboneError, HubError, SettingsError, StorageError, TailorbirdError
from tailorbird.files import sha256_file, write_bytes

SCHEME = "keras:"


def pull(
    reference: str,
    *,
    size: int | None = None,
    weights: str | Path | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Make a backbone of a Keras application and keep it in `folder` (by default the catalogue); the path of its file.

    reference: `keras:NAME`. size: the side of the square input in pixels; by default the one its weights were trained at.
    weights: a weights file to load instead of downloading, Keras 3 (.weights.h5) or Keras 2 (.h5), with classes on top or without.
    say: called with a line on each step. What was pulled before is at hand at once, also without Keras.

    Raises SettingsError (reference, size), MissingExtra (no Keras), HubError (the download failed), BackboneError (the weights file
    is of another network, or the result disagrees with Keras), StorageError (disk full).
    """
    say = say or (lambda _: None)
    folder = folder or catalogue_folder()
    name = name_of(reference)
    file = Path(weights) if weights is not None else None
    if file is not None and not file.is_file():
        raise BackboneError(
            f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; give a weights file of Keras"
        )
    digest = sha256_file(file) if file is not None else None
    kept = _kept(folder, name, size, digest)
    if kept is not None:
        said = onnx_files.metadata(onnx_files.read_audited(kept, BackboneError))
        which = "" if digest else f"; its weights: {said.get('weights', 'not stated')}"
        if digest is None and "weights_sha256" in said:
            which += f"; for those that Keras publishes delete {kept} first"
        say(f"{kept.name} is at hand{which}")
        return kept

    keras = backend.load()
    application = applications.find(name)
    wanted = size or application.size
    application.check_size(wanted)
    if file is None:
        say(
            f"loading the published weights of {application.name}; Keras downloads them the first time"
        )
        with quiet(), translated(application.name):
            model = applications.build(application.name, wanted, weights="imagenet")
    else:
        say(f"loading {file.name}")
        model = applications.build(application.name, wanted)
        load_file(application.name, model, file)
    stem = application.name + (f"-{wanted}" if wanted != application.size else "")
    about = {
        "name": stem,
        "source": f"{SCHEME}{application.name}",
        "licence": application.licence,
        "trained_on": application.trained_on,
        "weights": "imagenet, as Keras downloads them",
        **(_of_file(file, digest, application) if file is not None and digest is not None else {}),
        "adapted_by": f"tailorbird {_version()}, Keras {keras.__version__} on {keras.backend.backend()}",
        **description.describe(application=application.name, preprocess=application.preprocess),
    }
    say(f"converting {application.name} for images of {wanted} x {wanted} pixels")
    proto = export(model, preprocess=application.preprocess, size=wanted, about=about)
    gap = verify(proto, model, application.preprocess, photos(wanted))
    target = folder / f"{stem}{SUFFIX}"
    write_bytes(target, proto.SerializeToString())
    say(
        f"{target.name} is at hand; it agrees with Keras to {gap:.1g} of the largest feature; licence: {about['licence']}"
    )
    return target


def name_of(reference: str) -> str:
    """NAME of keras:NAME. Raises SettingsError."""
    found = re.fullmatch(r"keras:(\w+)", reference.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise SettingsError(
            f"{reference!r} is no reference to a Keras application; give keras:NAME, for example keras:Xception or keras:MobileNetV2"
        )
    return found[1]


def _kept(folder: Path, name: str, size: int | None, digest: str | None) -> Path | None:
    """The file an equal request led to before; Keras is not asked. digest: of the weights file, when one was given."""
    stems = {name.casefold()} | ({f"{name}-{size}".casefold()} if size else set())
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name.removesuffix(SUFFIX).casefold() not in stems:
            continue
        try:
            proto = onnx_files.read_audited(path, BackboneError)
        except BackboneError:
            continue  # damaged; made anew
        said = onnx_files.metadata(proto)
        side = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        ours = said.get("source", "").casefold() == f"{SCHEME}{name}".casefold() and said.get(
            "converter"
        ) == str(CONVERTER)
        if ours and size in (None, side) and digest in (None, said.get("weights_sha256")):
            return path
    return None


def _of_file(file: Path, digest: str, application: applications.Application) -> dict[str, str]:
    """What is known of weights that came in a file: only the file."""
    return {
        "weights": f"the file {file.name}",
        "weights_sha256": digest,
        "licence": f"not stated ({application.licence} where they are Keras' published weights)",
        "trained_on": f"not stated ({application.trained_on} where they are Keras' published weights)",
    }


@contextlib.contextmanager
def quiet() -> Any:
    """Keep Keras' progress bars off standard output, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def translated(name: str) -> Any:
    """Turn what a download raises into errors that say what to do."""
    try:
        yield
    except TailorbirdError:
        raise
    except Exception as problem:  # Keras raises a plain Exception for a failed download
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        found = re.search(r"https?://[^\s:]+", first)
        if (
            found is None
            and isinstance(problem, OSError)
            and problem.errno is not None
            and problem.filename is not None
        ):
            raise StorageError(
                f"the weights of {name} could not be stored in {_keras_folder()}: {problem.strerror}; free some space, or set KERAS_HOME "
                "to another disk, and run again"
            ) from problem
        if found is None:
            raise HubError(
                f"the weights of {name} could not be loaded: {first[:300]}; delete what lies half-downloaded in {_keras_folder()} and run "
                "again, or give a weights file with --weights FILE"
            ) from problem
        url = found[0]
        why = first.partition(url)[2].strip(": ").removeprefix("None -- ")
        raise HubError(
            f"{url} cannot be reached ({why or first}): check the connection and run again; or download {url.rpartition('/')[2]} on "
            f"another machine and give it with --weights FILE, or put it into {_keras_folder()}, where Keras looks first"
        ) from problem


def _keras_folder() -> Path:
    """Where Keras keeps downloaded weights."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models"


def _version() -> str:
    try:
        return metadata.version("tailorbird")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "(not installed)"
