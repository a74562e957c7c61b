"""Read whole-model files of Keras, `.keras` or `.h5`, as untrusted input.

Keras' safe mode is always on, and not relied on alone: what a file would construct is read from its
configuration first, and anything but Keras' own layers, initialisers and the like is refused by
name. Lambda layers are never constructed.

Some layers of Keras 2 have arguments that Keras 3 refuses although they have no effect: such a
configuration is rewritten (see `legacy_configs`); the file itself is not changed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.engines.keras import backend, legacy_configs
from tailorbird.errors import ModelFileError, StorageError
from tailorbird.files import storage_error
from tailorbird.onnx_files import MOST_BYTES

MOST_CONFIG_BYTES = 64_000_000
"""Maximum size of a configuration; Xception's is about 100 kB."""

_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")

_RUNS_CODE = frozenset({"Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"})
"""Keras' own layers that hold program code, or load it."""

_PARTS = (
    "layers",
    "models",
    "initializers",
    "regularizers",
    "constraints",
    "activations",
    "dtype_policies",
    "ops",
    "random",
)
"""Modules of Keras with the parts of networks."""

_RESAVE = (
    'save it again in the environment that made it: python -c "import keras; '
    "keras.models.load_model({name!r}, compile=False).save('model.keras')\""
)


@dataclass(frozen=True)
class Loaded:
    """A model, the Keras version in its file, and the changes made to an old configuration."""

    model: Any
    keras_version: str
    changes: tuple[str, ...]


def load(path: str | Path) -> Loaded:
    """Open a whole-model file of Keras 3 (`.keras`, `.h5`) or Keras 2 (`.h5`), without optimiser.

    Raises ModelFileError for a file that does not exist, is damaged or no Keras model, is larger
    than MOST_BYTES unpacked, holds only weights, code or layers that are not Keras' own, or cannot
    be read by Keras 3; MissingExtra.
    """
    path = Path(path)
    return _from_archive(path) if _kind(path) == "zip" else _from_h5(path)


def _kind(path: Path) -> str:
    """Return zip or h5, by content. Raises ModelFileError, which says what another file is."""
    try:
        if path.is_dir():
            raise ModelFileError(_folder(path))
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise ModelFileError(
            f"{path} does not exist; give a .keras or .h5 file that model.save wrote"
        ) from None
    except OSError as problem:
        raise ModelFileError(f"{path} cannot be read: {problem.strerror}") from None
    if size > MOST_BYTES:
        raise ModelFileError(f"{path} is {size:,} bytes; at most {MOST_BYTES:,} are opened")
    if head.startswith(b"PK"):
        return "zip"
    if head == b"\x89HDF\r\n\x1a\n":
        return "h5"
    what = "neither a .keras archive nor an HDF5 file, or its beginning is damaged"
    raise ModelFileError(
        f"{path} is {what if head else 'empty'}; save the model with model.save('model.keras'), or "
        "copy the file again"
    )


def _folder(path: Path) -> str:
    if (path / "saved_model.pb").exists():
        return (
            f"{path} is a TensorFlow SavedModel folder, which Keras 3 does not read as a model; "
            "where TensorFlow made it, pip install tf_keras and write a file from it: "
            f'python -c "import tf_keras; tf_keras.models.load_model({str(path)!r}, '
            "compile=False).save('model.h5')\", then import model.h5"
        )
    if (path / "config.json").exists():
        return (
            f"{path} is an unpacked .keras archive; zip its files (zip -r model.keras config.json "
            "metadata.json model.weights.h5) and import that"
        )
    return f"{path} is a folder; give the .keras or .h5 file itself"


def _from_archive(path: Path) -> Loaded:
    """Read a `.keras` archive: configuration, metadata and weights in a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            _check_archive(path, archive, sizes)
            config = _json(path, archive.read("config.json"))
            about = _json(path, archive.read("metadata.json"))
            damaged = archive.testzip()
            if damaged is not None:
                raise ModelFileError(
                    f"{path} is damaged: {damaged} in it has another checksum; copy or download it "
                    "again"
                )
            _check_weights(path, archive)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as problem:
        raise ModelFileError(
            f"{path} is damaged or truncated ({problem}); copy or download it again"
        ) from None
    config.pop("compile_config", None)  # losses and metrics are not constructed
    version = str(about.get("keras_version", "unknown"))
    upgraded, changes = legacy_configs.upgrade(config, version, h5=False)
    check_config(upgraded, str(path))
    with tempfile.TemporaryDirectory() as folder:
        named = path
        if upgraded != config:
            named = Path(folder) / "model.keras"
            with _writing(named), zipfile.ZipFile(path) as old, zipfile.ZipFile(named, "w") as new:
                for name in _MEMBERS:
                    new.writestr(
                        name, json.dumps(upgraded) if name == "config.json" else old.read(name)
                    )
        elif path.suffix != ".keras":  # Keras recognises the kind of a file by its name
            named = Path(folder) / "model.keras"
            with _writing(named):
                shutil.copyfile(path, named)
        return Loaded(_construct(path, named, version), version, changes)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise StorageError when a temporary file cannot be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{storage_error(path, error)} (TMPDIR names the folder for such files)"
        ) from error


def _check_archive(path: Path, archive: zipfile.ZipFile, sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if (
        total > MOST_BYTES
        or sizes.get("config.json", 0) > MOST_CONFIG_BYTES
        or sizes.get("metadata.json", 0) > MOST_CONFIG_BYTES
    ):
        raise ModelFileError(
            f"{path} unpacks to {total:,} bytes, its configuration to "
            f"{sizes.get('config.json', 0):,}; "
            f"at most {MOST_BYTES:,} and {MOST_CONFIG_BYTES:,} are unpacked"
        )
    missing = [name for name in _MEMBERS if name not in sizes]
    if missing:
        raise ModelFileError(
            f"{path} is a zip file but no .keras archive: it lacks {' and '.join(missing)}; save "
            "the model with model.save('model.keras')"
        )
    other = sorted(
        name for name in archive.namelist() if name not in _MEMBERS and not name.endswith("/")
    )
    if other:
        raise ModelFileError(
            f"{path} holds {other[0]!r} beside configuration and weights: files of layers for "
            "text; only networks on pixels are imported"
        )


def _check_weights(path: Path, archive: zipfile.ZipFile) -> None:
    """Check the weights inside an archive: their size, and that nothing leads out of the file."""
    import io

    with _opened(path, io.BytesIO(archive.read("model.weights.h5"))) as file:
        _check_h5(path, file)


def _from_h5(path: Path) -> Loaded:
    """Read a `.h5` file of Keras 2 or 3."""
    with _opened(path, path) as file:
        _check_h5(path, file)
        text = file.attrs.get("model_config")
        version = _text(file.attrs.get("keras_version", "unknown"))
        if text is None:
            raise ModelFileError(_no_config(path, file))
        config = _json(path, text.encode() if isinstance(text, str) else bytes(text))
    upgraded, changes = legacy_configs.upgrade(config, version, h5=True)
    check_config(upgraded, str(path))
    with tempfile.TemporaryDirectory() as folder:
        named = path
        if upgraded != config or path.suffix not in (".h5", ".hdf5"):
            named = Path(folder) / "model.h5"
            with _writing(named):
                shutil.copyfile(path, named)
                _set_config(named, json.dumps(upgraded))
        return Loaded(_construct(path, named, version), version, changes)


def _no_config(path: Path, file: Any) -> str:
    if "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file:
        return (
            f"{path} holds weights alone, not the network they belong to; build the model in "
            "Python as it was, then model.load_weights(...) and model.save('model.keras'), and "
            "import model.keras. (The weights of a Keras application become a "
            "backbone with `tailorbird backbones pull keras:NAME --weights FILE`.)"
        )
    return (
        f"{path} is an HDF5 file but holds no Keras model: it has no model_config; save the model "
        "with model.save('model.keras')"
    )


def _opened(path: Path, source: Any) -> Any:
    """Open an HDF5 file for reading. Raises ModelFileError."""
    backend.load()  # raises MissingExtra without Keras, which h5py comes with
    import h5py

    try:
        return h5py.File(source, "r")
    except OSError as problem:
        reason = str(problem).splitlines()[0][:200]
        raise ModelFileError(
            f"{path} is damaged or truncated ({reason}); copy or download it again"
        ) from None


def _set_config(path: Path, text: str) -> None:
    """Replace the configuration in a copy of a `.h5` file."""
    import h5py

    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
        file.attrs["model_config"] = text.encode()


def _check_h5(path: Path, file: Any) -> None:
    """Check that nothing leads out of the file and that it unpacks to at most MOST_BYTES."""
    import h5py

    total = 0
    waiting = [file]
    while waiting:
        group = waiting.pop()
        try:
            names = list(group)
            for name in names:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ModelFileError(
                        f"{path} refers to other places by a link ({name!r}); only complete files "
                        "are opened"
                    )
                item = group[name]
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                elif isinstance(item, h5py.Dataset):
                    if item.external or item.is_virtual:
                        raise ModelFileError(
                            f"{path} keeps weights in another file ({name!r}); only complete "
                            "files are opened"
                        )
                    total += item.size * item.dtype.itemsize if item.size else 0
        except (KeyError, RuntimeError, OSError) as problem:
            raise ModelFileError(
                f"{path} is damaged ({str(problem)[:200]}); copy or download it again"
            ) from None
        if total > MOST_BYTES:
            raise ModelFileError(
                f"{path} unpacks to {total:,} bytes or more; at most {MOST_BYTES:,} are unpacked"
            )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _json(path: Path, data: bytes) -> dict[str, Any]:
    if len(data) > MOST_CONFIG_BYTES:
        raise ModelFileError(
            f"{path}: the configuration is {len(data):,} bytes; at most {MOST_CONFIG_BYTES:,} are "
            "read"
        )
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: the configuration is not JSON ({str(error)[:100]}); the file is damaged"
        ) from None
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: the configuration is not a JSON object; the file is damaged")
    return content


def check_config(config: dict[str, Any], name: str) -> None:
    """Refuse a configuration that would construct anything but Keras' own parts of networks.

    Nothing is constructed. Raises ModelFileError, which names each Lambda layer and everything that
    is not Keras' own.
    """
    code, foreign = [], []
    for item in legacy_configs.objects(config):
        kind, settings = item["class_name"], item.get("config")
        called = settings.get("name") if isinstance(settings, dict) else None
        shown = f"{called!r} ({kind})" if called else repr(kind)
        if kind == "__lambda__":
            code.append("a lambda function")
        elif isinstance(kind, str) and kind in _RUNS_CODE:
            code.insert(0, shown)
        elif not _is_own(item):
            foreign.append(shown)
    if code:
        code = [one for one in code if one != "a lambda function"] or code
        raise ModelFileError(
            f"{name} holds program code, which could do anything when the model is opened and is "
            f"never run: {_listed(code)}; build the model again with Keras' own layers in their "
            "place (Rescaling for a division, keras.layers or keras.ops for the rest), load the "
            "weights, "
            "save and import that"
        )
    if foreign:
        raise ModelFileError(
            f"{name} needs layers that are not Keras' own: {_listed(foreign)}; their code is not "
            "in the file. Build the model again with Keras' own layers in their place, load the "
            "weights, save and import that"
        )


def _is_own(item: dict[str, Any]) -> bool:
    """Return whether an object of a configuration is one of Keras' own parts of networks."""
    keras = backend.load()
    kind, module, registered = item["class_name"], item.get("module"), item.get("registered_name")
    if not isinstance(kind, str) or (isinstance(registered, str) and ">" in registered):
        return False
    if kind.startswith("__") and kind.endswith(
        "__"
    ):  # __tensor__, __numpy__, __keras_tensor__, ...: values
        return kind in (
            "__tensor__",
            "__numpy__",
            "__keras_tensor__",
            "__tuple__",
            "__ellipsis__",
            "__bytes__",
            "__dtype__",
        )
    if kind in ("function", "slice", "Slice"):
        inner = item.get("config")
        return kind != "function" or (isinstance(inner, str) and hasattr(keras.activations, inner))
    if module is not None:
        where = str(module).split(".")
        if where == ["builtins"]:
            return kind in ("list", "dict", "tuple", "int", "float", "str", "bool")
        if where[0] != "keras":
            return False
        inside = [part for part in where[1:] if part != "src"]
        if inside and inside[0] not in _PARTS:
            return False
    return legacy_configs.knows(kind)


def _listed(names: list[str]) -> str:
    """Return the names, each once and at most 8."""
    once = list(dict.fromkeys(names))
    return ", ".join(once[:8]) + (f" and {len(once) - 8} more" if len(once) > 8 else "")


def _construct(path: Path, named: Path, version: str) -> Any:
    """Let Keras construct the model of a file that passed the checks. Raises ModelFileError."""
    keras = backend.load()
    try:
        return keras.saving.load_model(named, compile=False, safe_mode=True)
    except Exception as problem:  # Keras raises what its layers raise, with many lines
        reason = " ".join(str(problem).split())[:300]
    old = version.startswith(("1.", "2."))
    what = (
        f"was written by Keras {version}, and Keras {keras.__version__} cannot read it"
        if old
        else "cannot be read by Keras"
    )
    fix = (
        "make a newer file of it where Keras 2 is installed: pip install tf_keras, then "
        f'python -c "import tf_keras; tf_keras.models.load_model({str(path)!r}, '
        "compile=False).save_weights('w.weights.h5')\", build the same model with Keras 3, "
        "model.load_weights('w.weights.h5'), model.save('model.keras'), and import model.keras"
        if old
        else "or the file is damaged; " + _RESAVE.format(name=path.name)
    )
    raise ModelFileError(f"{path} {what} (Keras reported: {reason}); {fix}")
