"""Install a backbone from a hub or from a framework's published networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tailorbird.backbone import hub
from tailorbird.engines.protocol import PUBLISHED, RESIZES, SQUASH
from tailorbird.engines.registry import ENGINES, engine_for_reference
from tailorbird.progress import NoProgress, Progress
from tailorbird.validation import Problems


def pull_backbone(
    reference: str,
    *,
    size: int | None = None,
    file: str | None = None,
    revision: str | None = None,
    weights: str | Path | None = None,
    arguments: Mapping[str, object] | None = None,
    resize: str = SQUASH,
    progress: Progress | None = None,
) -> Path:
    """Install a backbone in the cache folder, and return its file.

    Args:
        reference: `hf:OWNER/REPO`, or `ENGINE:NAME` such as `keras:Xception`.
        size: side of the input in pixels; None: the publisher's.
        file: ONNX file of the hub's repository to use.
        revision: branch, tag or commit of the repository.
        weights: weights file to load into an engine's network, instead of downloading them.
        arguments: further arguments of the function that builds an engine's network.
        resize: how photos are to be resized: `squash`, or `published` for timm:NAME: as timm does
            for these weights.
        progress: receives notes on each step.

    Raises:
        SettingsError: an invalid reference, or options that do not apply to it.
        HubError: the download failed.
        BackboneError: the file is not a usable backbone.
        MissingExtra: the engine is not installed.
        StorageError: the file could not be written.
    """
    engine, progress = engine_for_reference(reference), progress or NoProgress()
    with Problems() as problems:
        problems.need(
            engine is None or not (file or revision),
            f"--file and --revision are for hf:OWNER/REPO; {reference} takes --size, --weights and "
            "--model-args",
        )
        problems.need(resize in RESIZES, f"resize is {resize!r}; it must be {' or '.join(RESIZES)}")
        schemes = ", ".join(f"{name}:NAME" for name in ENGINES)
        problems.need(
            engine is not None or (weights is None and not arguments and resize != PUBLISHED),
            f"--weights, --model-args and --resize are for {schemes}; {reference} takes --size, "
            "--file and --revision",
        )
    if engine is not None:
        path = None if weights is None else Path(weights)
        return engine.pull(
            reference,
            size=size,
            weights=path,
            arguments=arguments,
            resize=resize,
            progress=progress,
        )
    return hub.pull(reference, size=size, file=file, revision=revision, progress=progress)
