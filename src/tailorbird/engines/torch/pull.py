"""Pull networks of timm as backbone files.

References are `timm:NAME`, NAME as in timm.list_models(), with or without the tag of its weights. A
backbone that was pulled is an ONNX file: using it again needs neither PyTorch nor a connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tailorbird import onnx_files
from tailorbird.backbone.catalogue import SUFFIX, installed_version
from tailorbird.backbone.catalogue import folder as catalogue_folder
from tailorbird.backbone.hub_errors import translate
from tailorbird.backbone.reference import Reference
from tailorbird.engines.protocol import SQUASH
from tailorbird.engines.torch import backend, description, networks
from tailorbird.engines.torch.exporting import CONVERTER, export, verify
from tailorbird.engines.torch.networks import SCHEME, Architecture, Arguments
from tailorbird.engines.torch.weights_files import read_weights
from tailorbird.errors import (
    BackboneError,
    HubError,
    SettingsError,
    StorageError,
    TailorbirdError,
)
from tailorbird.files import sha256_file, write_bytes
from tailorbird.images import ResizeRule
from tailorbird.inference import first_line
from tailorbird.progress import NoProgress, Progress
from tailorbird.rendering.probes import probe_images


def pull(
    reference: str,
    *,
    size: int | None = None,
    weights: Path | None = None,
    arguments: Arguments | None = None,
    resize: str = SQUASH,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a network of timm as a backbone file and return its path.

    Args:
        reference: `timm:NAME`.
        size: side of the square input in pixels; by default the one its weights were trained at.
        weights: a weights file to load instead of downloading: safetensors, or a .pth file that
            holds tensors only; with or without classes on top.
        arguments: further arguments of timm.create_model, such as {"pad_type": "same"}.
        resize: how photos are to be resized: `squash`, or as timm does for these weights,
            `published`.
        folder: where to write; by default the catalogue. An equal file there is used again.
        progress: receives notes.

    Raises:
        SettingsError: invalid reference, size or arguments.
        MissingExtra: PyTorch or timm is not installed.
        HubError: the download failed.
        BackboneError: the weights file is of another network, the network cannot be converted, or
            the result disagrees with PyTorch.
        StorageError: the disk is full.
    """
    note = (progress or NoProgress()).note
    folder, name = folder or catalogue_folder(), networks.name_of(reference)
    if size is not None:
        networks.check_size(size)
    if weights is not None and not weights.is_file():
        read_weights(weights)  # raises
    digest = sha256_file(weights) if weights is not None else None
    request = _request(name, size, arguments, digest, resize)
    kept = _kept(folder, request)
    if kept is not None:
        note(f"{kept.name} is already there")
        return kept
    architecture = networks.find(name, arguments)
    model = load(architecture, size, weights, note)
    side = size or architecture.size
    rule = _rule(architecture, resize)
    stem = name + (f"-{side}" if side != architecture.size else "")
    stem += "" if resize == SQUASH else f"-{resize}"
    about = {
        "name": stem,
        "adapted_by": f"tailorbird {installed_version()}, {backend.versions()}",
        "pulled_as": request,
        **origin(architecture, weights),
    }
    note(f"converting {name} for images of {side} x {side} pixels")
    proto = export(model, architecture, side, about, rule)
    gap = verify(proto, model, architecture, probe_images(side))
    target = folder / f"{stem}{SUFFIX}"
    write_bytes(target, proto.SerializeToString())
    note(
        f"{target.name} is ready; it agrees with PyTorch to {gap:.1g} of the largest feature; "
        f"licence: {about['licence']}"
    )
    return target


def load(
    architecture: Architecture,
    size: int | None,
    weights: Path | None,
    note: Any,
    *,
    with_classes: bool = False,
) -> Any:
    """Return timm's model with weights from a file, or else with the published ones.

    The classifier of the weights is kept on top only where it is asked for.

    Raises as `pull`.
    """
    if weights is None:
        if not architecture.published:
            raise HubError(
                f"timm publishes no weights of {architecture.name}; "
                f"choose a tag, such as {_tagged(architecture)}, or give a file with --weights"
            )
        note(f"loading the weights of {architecture.published}; timm downloads them the first time")
        with translated(architecture):
            _look_up(architecture.published)
            model = networks.build(architecture, size, classes=architecture.classes, published=True)
    else:
        note(f"loading {weights.name}")
        tensors = read_weights(weights)
        classes = classes_in(tensors, architecture)
        if with_classes and not classes:
            raise BackboneError(f"{weights} holds no classifier; it gives features only")
        model = networks.build(architecture, size, classes=classes, weights=tensors)
    if not with_classes:
        model.reset_classifier(0)
    return model.eval()


def classes_in(tensors: Any, architecture: Architecture) -> int:
    """Return the number of classes of the classifier in a weights file; 0 if there is none."""
    for name in architecture.classifier:
        if f"{name}.weight" in tensors:
            return int(tensors[f"{name}.weight"].shape[0])
    return 0


def origin(architecture: Architecture, file: Path | None) -> dict[str, str]:
    """Return what is known of the weights; of those in a file, only the file."""
    source = {"source": f"{SCHEME}{architecture.name}"}
    licence = architecture.licence or "not stated"
    if file is None:
        return {
            **source,
            "licence": licence,
            "trained_on": architecture.tag or "not stated",
            "weights": f"{architecture.published}, as timm downloads them",
        }
    published = "where they are the weights that timm publishes"
    return {
        **source,
        "weights": f"the file {file.name}",
        "weights_sha256": sha256_file(file),
        "licence": f"not stated ({licence} {published})",
        "trained_on": "not stated",
    }


def _rule(architecture: Architecture, resize: str) -> ResizeRule | None:
    """Return the resize rule of a pulled network; None: squashed. Raises SettingsError."""
    if resize == SQUASH:
        return None
    if architecture.rule is None:
        raise SettingsError(
            f"timm pads photos to a square for {architecture.name}, which is not supported; leave "
            "--resize out, so that they are squashed"
        )
    return architecture.rule


def _request(
    name: str, size: int | None, arguments: Arguments | None, digest: str | None, resize: str
) -> str:
    """Return everything that a pulled file depends on, as text."""
    named = [f"{key}={value}" for key, value in sorted((arguments or {}).items())]
    parts = [f"size={size}" if size else "", *named, f"weights={digest}" if digest else ""]
    parts.append(f"resize={resize}" if resize != SQUASH else "")
    return " ".join([f"{SCHEME}{name}", *filter(None, parts)])


def _kept(folder: Path, request: str) -> Path | None:
    """Return the file that an equal request wrote before, without PyTorch."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            facts = onnx_files.metadata(onnx_files.read_audited(path, BackboneError))
        except BackboneError:
            continue  # damaged: it is written again
        if facts.get("pulled_as") == request and facts.get("converter") == str(CONVERTER):
            return path if description.ENTRY in facts else None
    return None


def _look_up(place: str) -> None:
    """Ask the hub for a repository that the download cache does not hold.

    Without a connection this fails at once; timm would repeat each of two downloads for 23 seconds.
    """
    import huggingface_hub

    repository, _, revision = place.partition("@")
    names = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
    if "://" in place or any(
        isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) for name in names
    ):
        return
    huggingface_hub.HfApi().model_info(repository, revision=revision or None)


def _tagged(architecture: Architecture) -> str:
    """Return names of networks with published weights that are of the same kind, or any."""
    _, timm = backend.load()
    stem = architecture.plain_name.partition("_")[0]
    found = timm.list_pretrained(f"{architecture.plain_name}.*") or timm.list_pretrained(f"{stem}*")
    return ", ".join(found[:3] or ["mobilenetv3_large_100.ra_in1k"])


@contextlib.contextmanager
def translated(architecture: Architecture) -> Iterator[None]:
    """Translate what a failed download raises into HubError or StorageError."""
    try:
        yield
    except TailorbirdError:
        raise
    except Exception as problem:
        raise _download_error(problem, architecture) from problem


def _download_error(problem: Exception, architecture: Architecture) -> TailorbirdError:
    """Return the error to raise for what timm raised while it downloaded weights."""
    place = architecture.published
    by_hand = (
        f"; or download the weights of {place} on another machine, and give the file with "
        "--weights FILE"
    )
    owner, _, repo = place.partition("/")
    if "://" not in place:
        found = translate(problem, Reference(owner, repo), catalogue_folder())
        return HubError(f"{found}{by_hand}") if isinstance(found, HubError) else found
    if isinstance(problem, OSError) and problem.errno and problem.filename:
        return StorageError(
            f"the weights of {architecture.name} could not be stored in {problem.filename}: "
            f"{problem.strerror}; free some space, or set TORCH_HOME to another disk"
        )
    return HubError(
        f"{place} could not be downloaded ({first_line(problem)}): check the connection and run "
        f"again{by_hand}"
    )
