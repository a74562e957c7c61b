"""The pipeline: scan -> split -> embed -> head -> (fine-tune) -> calibrate -> test once -> model file."""

from tailorbird.training.checks import MOST_VIEWS
from tailorbird.training.pipeline import train
from tailorbird.training.preparing import LeftOut
from tailorbird.training.result import TrainResult, trained_on

__all__ = ["MOST_VIEWS", "LeftOut", "TrainResult", "train", "trained_on"]
