"""Backbones and model files to int8, refused where that costs accuracy on the photos given."""

from tailorbird.int8.backbone import QuantisedBackbone, quantise_backbone
from tailorbird.int8.figures import MOST_LOST, AccuracyLost, Figures, Precision
from tailorbird.int8.model import QuantisedModel, quantise_model
from tailorbird.int8.trained import QuantisedTraining, train_int8

__all__ = [
    "MOST_LOST",
    "AccuracyLost",
    "Figures",
    "Precision",
    "QuantisedBackbone",
    "QuantisedModel",
    "QuantisedTraining",
    "quantise_backbone",
    "quantise_model",
    "train_int8",
]
