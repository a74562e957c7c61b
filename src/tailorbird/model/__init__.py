"""THE artefact: one ONNX file, pixels in, calibrated probabilities and heat maps out."""

from tailorbird.model.classifier import Classifier, Failure, Prediction, Source, load
from tailorbird.model.metadata import ModelInfo

__all__ = ["Classifier", "Failure", "ModelInfo", "Prediction", "Source", "load"]
