"""Export a model file to the framework its backbone came from, checked to predict the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.engines import registry
from tailorbird.engines.protocol import Engine
from tailorbird.errors import ModelFileError, SettingsError, TrainingError
from tailorbird.files import storage_error, write_bytes
from tailorbird.inference import Runner
from tailorbird.model.file import AGREEMENT
from tailorbird.model.graph import head_in
from tailorbird.model.metadata import info_from
from tailorbird.rendering.probes import probe_images
from tailorbird.validation import Problems

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ExportedModel:
    """A model file that was exported to a framework.

    Attributes:
        path: the written file.
        classes: class names in the order of the probabilities.
        size: S, the side of the input in pixels.
        difference: the largest difference of a probability from the model file, on probe images.
        backend: the framework's backend, such as `tensorflow`.
        use: what it takes and gives, for people.
        opening: Python expression that opens it.
    """

    path: Path
    classes: tuple[str, ...]
    size: int
    difference: float
    backend: str
    use: str
    opening: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of `export --json`."""
        return {
            "output": str(self.path),
            "classes": list(self.classes),
            "input_size": self.size,
            "difference": self.difference,
            "backend": self.backend,
            "bytes": self.path.stat().st_size,
        }


def export_model(
    model_file: str | Path, output: str | Path | None = None, *, to: str | None = None
) -> ExportedModel:
    """Write a model file as a model of a framework that takes pixels and predicts the same.

    The written file is opened again, and must agree with the model file to AGREEMENT before it is
    moved to `output`.

    Args:
        model_file: the model file; its backbone must have come from the engine.
        output: the file to write; by default beside the model file, where none exists yet.
        to: name of the engine; None takes the one that the backbone came from.

    Raises:
        ModelFileError: the backbone did not come from the engine.
        SettingsError: unknown engine, or a wrong or existing output name.
        TrainingError: the two disagree.
        StorageError, MissingExtra.
    """
    model_file = Path(model_file)
    with Problems() as problems:
        problems.outputs({"file": output}, inputs={"model": model_file}, make_folders=True)
    wanted = registry.engine(to) if to is not None else None
    proto = onnx_files.read_audited(model_file, ModelFileError)
    info = info_from(proto, str(model_file))
    author = registry.engine_of(proto)
    if author is None or (wanted is not None and author != wanted.name):
        backbone = info.backbone
        origin = (
            f"{backbone.get('name', 'an unknown backbone')} (source: {backbone.get('source', '?')})"
        )
        example = (wanted or next(registry.engines())).example
        raise ModelFileError(
            f"{model_file} was made from {origin}, which did not come from "
            f"{to or 'a training engine'}, or, imported, could not be described as a network of "
            f"it; models trained on a backbone such as {example} can be exported"
        )
    if info.backbone.get("mirror"):
        raise ModelFileError(
            f"{model_file} was trained with mirror (--mirror): it averages two views of each "
            f"photo, which a model of {author} would not; train without it to export it"
        )
    engine = registry.engine(author)
    path = _output(model_file, output, engine)
    head, size = head_in(proto, str(model_file)), info.resize.size
    # Written beside the output, so that a full disk is found before the output is touched.
    with _temporary(path.absolute().parent) as folder:
        written = folder / f"model{engine.model_suffix}"
        try:
            engine.save_model(proto, head, size=size, temperature=info.temperature, path=written)
        except OSError as error:
            raise storage_error(written, error) from error
        images = probe_images(size)
        found = engine.run_saved(written, images)
        difference = _difference(found, proto, images, str(model_file))
        if not difference < AGREEMENT:
            raise TrainingError(
                f"the exported model's probabilities differ from those of {model_file} by up to "
                f"{difference:.2g}; at most {AGREEMENT:g} is allowed, so it was not written"
            )
        others = [file for file in sorted(folder.iterdir()) if file != written]
        for file in others:
            beside = path.with_name(file.name)
            if beside.exists() and not path.exists():
                raise SettingsError(
                    f"{beside} exists already and would be replaced; name a file in another "
                    f"folder, for example -o {path.stem}/{path.name}"
                )
            write_bytes(beside, file.read_bytes())
        write_bytes(path, written.read_bytes())
    return ExportedModel(
        path,
        info.classes,
        size,
        difference,
        engine.runtime(),
        engine.model_use.format(size=size, classes=len(info.classes)),
        engine.model_opening.format(path=path, folder=path.parent),
    )


def _output(model_file: Path, output: str | Path | None, engine: Engine) -> Path:
    """Return the file to write. Raises SettingsError."""
    suffix = engine.model_suffix
    if output is None:
        path = model_file.parent / engine.model_name.format(model_file.stem)
        if path.exists():  # perhaps the model that this model file was imported from
            raise SettingsError(f"{path} exists already; name the file to write: -o NAME{suffix}")
        return path
    path = Path(output)
    if path.suffix != suffix:
        raise SettingsError(f"{path} must end in {suffix}, for example -o {path.stem}{suffix}")
    return path


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder inside `parent`. Raises StorageError."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=".tailorbird-", dir=parent)
    except OSError as error:
        raise storage_error(parent, error) from error
    with made as folder:
        yield Path(folder)


def _difference(
    found: npt.NDArray[np.float32],
    proto: onnx.ModelProto,
    images: npt.NDArray[np.uint8],
    name: str,
) -> float:
    """Return the largest difference between probabilities and those of the model file."""
    (expected,) = Runner(proto, name, ModelFileError).run(images, ["probabilities"])
    return float(np.abs(found - expected).max()) if np.isfinite(found).all() else float("inf")
