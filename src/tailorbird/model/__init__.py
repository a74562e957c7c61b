"""The model file: one ONNX file, pixels in, calibrated probabilities and heat maps out."""

from tailorbird.model.classifier import Classifier, Source, load
from tailorbird.model.metadata import ModelInfo
from tailorbird.model.prediction import Failure, Prediction

__all__ = ["Classifier", "Failure", "ModelInfo", "Prediction", "Source", "load"]
