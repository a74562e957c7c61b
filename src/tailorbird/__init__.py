"""tailorbird: from a folder of labelled photos to a tested, explained, portable image classifier.

    import tailorbird
    result = tailorbird.train("photos/", "shop.onnx")
    tailorbird.load("shop.onnx").predict("new.jpg")

Everything public is listed here; names are imported when first used, so that `import tailorbird` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailorbird.dataset import Dataset, Finding, Sample, scan, write_manifest
    from tailorbird.errors import InputError, RunError, TailorbirdError
    from tailorbird.evaluation import Evaluation, evaluate
    from tailorbird.explanation import Explanation, explain
    from tailorbird.metrics import Scores
    from tailorbird.model import Classifier, Failure, Prediction, load
    from tailorbird.training import TrainResult, train

__all__ = [
    "Classifier",
    "Dataset",
    "Evaluation",
    "Explanation",
    "Failure",
    "Finding",
    "InputError",
    "Prediction",
    "RunError",
    "Sample",
    "Scores",
    "TailorbirdError",
    "TrainResult",
    "evaluate",
    "explain",
    "load",
    "scan",
    "train",
    "write_manifest",
]

_HOMES = {
    "Classifier": "model",
    "Dataset": "dataset",
    "Evaluation": "evaluation",
    "Explanation": "explanation",
    "Failure": "model",
    "Finding": "dataset",
    "InputError": "errors",
    "Prediction": "model",
    "RunError": "errors",
    "Sample": "dataset",
    "Scores": "metrics",
    "TailorbirdError": "errors",
    "TrainResult": "training",
    "evaluate": "evaluation",
    "explain": "explanation",
    "load": "model",
    "scan": "dataset",
    "train": "training",
    "write_manifest": "dataset",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tailorbird")
    if name not in _HOMES:
        raise AttributeError(f"module 'tailorbird' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(f"tailorbird.{_HOMES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
