"""The pipeline: scan -> split -> embed -> head -> (fine-tune) -> calibrate -> test once -> model file."""

from tailorbird.preparation import MOST_VIEWS, LeftOut
from tailorbird.training.pipeline import train
from tailorbird.training.result import TrainResult, trained_on

__all__ = ["MOST_VIEWS", "LeftOut", "TrainResult", "train", "trained_on"]
