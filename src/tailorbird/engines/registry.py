"""Which engine a backbone belongs to, and its network in that framework."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird import onnx_files
from tailorbird.errors import SettingsError

if TYPE_CHECKING:
    import onnx

    from tailorbird.engines.protocol import TrainableNetwork
    from tailorbird.head import Head

ENGINES = ("keras",)
"""Each has a folder here, and marks what it exports with a metadata entry of its name."""

SCRATCH = "cnn"
"""The name of a small network that an engine trains from random weights, in place of a backbone."""


def engine_of(backbone: onnx.ModelProto) -> str | None:
    """The engine that exported a backbone and can fine-tune it; None when none did."""
    return next((name for name in ENGINES if name in onnx_files.metadata(backbone)), None)


def open_network(
    backbone: onnx.ModelProto, path: Path, engine: str | None = None
) -> TrainableNetwork:
    """A backbone as a network that can be fine-tuned.

    path: for messages. engine: the one asked for; None takes the one that exported the file.
    Raises SettingsError when no engine exported it or another did, MissingExtra when the framework is not installed.
    """
    made_by = engine_of(backbone)
    if engine is not None and engine not in ENGINES:
        raise SettingsError(f"engine is {engine!r}; there is: {', '.join(ENGINES)}")
    if made_by is None or (engine is not None and engine != made_by):
        asked = engine or ENGINES[0]
        origin = (
            f"was exported from {made_by}"
            if made_by
            else "holds no network that an engine could train"
        )
        raise SettingsError(
            f"{path.name} {origin}, so it cannot be fine-tuned{f' by {engine}' if engine else ''}; pull a backbone for it, for example "
            f"`tailorbird backbones pull {asked}:MobileNetV2`, then train --finetune --backbone MobileNetV2"
        )
    from tailorbird.engines.keras.network import open_network as open_keras

    return open_keras(backbone)


def scratch_network(
    engine: str | None, *, size: int, classes: int, seed: int
) -> tuple[TrainableNetwork, Head]:
    """A small network with random weights, and its first head. size: of its square input in pixels. Raises SettingsError, MissingExtra."""
    if engine not in (None, *ENGINES):
        raise SettingsError(f"engine is {engine!r}; there is: {', '.join(ENGINES)}")
    from tailorbird.engines.keras.scratch import scratch_network as make

    return make(classes, size=size, seed=seed)
