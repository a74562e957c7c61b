"""`train --int8`: train, then also write the model as int8 where that costs little accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird import onnx_files
from tailorbird.backbone import files_read
from tailorbird.engines.finetune.task import Host
from tailorbird.engines.registry import engine_for_reference
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.inference.precision import is_quantised
from tailorbird.int8.figures import AccuracyLost
from tailorbird.int8.model import QuantisedModel, quantise_model
from tailorbird.progress import Progress
from tailorbird.training import TrainResult, TrainSettings, train
from tailorbird.training.run import OpensElsewhere


@dataclass(frozen=True)
class QuantisedTraining:
    """A trained model beside its int8 file.

    Attributes:
        trained: the result of the training; its model file is float32.
        int8: the int8 file, whose `path` is None where it was refused.
        refused: why; empty where it was written.
    """

    trained: TrainResult
    int8: QuantisedModel
    refused: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields of `train --int8 --json`."""
        return {**self.trained.as_dict(), "int8": {**self.int8.as_dict(), "refused": self.refused}}


def train_int8(
    photos: str | Path,
    output: str | Path,
    settings: TrainSettings,
    *,
    progress: Progress,
    elsewhere: OpensElsewhere | None = None,
    host: Host | None = None,
) -> QuantisedTraining:
    """Train as `train` does, then write NAME.int8.onnx beside NAME.onnx, unless that is refused.

    The float32 file stays in either case. Raises what `train` and `quantise_model` raise, but not
    AccuracyLost.
    """
    _refuse_int8(settings)
    trained = train(photos, output, settings, progress=progress, elsewhere=elsewhere, host=host)
    target, refused = Path(output).with_suffix(".int8.onnx"), ""
    try:
        int8 = quantise_model(trained.model, photos, target, data=settings.data, progress=progress)
    except AccuracyLost as lost:
        int8, refused = lost.result, str(lost)
    return QuantisedTraining(trained, int8, refused)


def _refuse_int8(settings: TrainSettings) -> None:
    """Raise SettingsError for a backbone that is int8 already and stays as it is."""
    if settings.trains_network or engine_for_reference(str(settings.backbone)):
        return
    for path in files_read(settings.backbone).values():
        if is_quantised(onnx_files.read_audited(path, BackboneError)):
            raise SettingsError(
                f"int8: {settings.backbone} is int8 already; leave --int8 out, or fine-tune it "
                "(--finetune)"
            )
