"""Train a classifier: photos in, one tested model file out."""

from tailorbird.preparation import MOST_VIEWS, LeftOut
from tailorbird.training.pipeline import train
from tailorbird.training.result import TrainResult
from tailorbird.training.settings import TrainSettings, settings_from_options

__all__ = [
    "MOST_VIEWS",
    "LeftOut",
    "TrainResult",
    "TrainSettings",
    "settings_from_options",
    "train",
]
