"""tailorbird: from a folder of labelled photos to a tested, portable image classifier.

    import tailorbird
    result = tailorbird.train("photos/", "shop.onnx")
    tailorbird.load("shop.onnx").predict("new.jpg")

`__all__` lists the public names. They are imported on first use, so that `import tailorbird` is
fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tailorbird.privacy import disable_telemetry as _disable_telemetry

if TYPE_CHECKING:
    from tailorbird.comparison import Comparison, compare
    from tailorbird.dataset import Dataset, Finding, Sample, scan, write_manifest
    from tailorbird.engines.finetune.settings import FinetuneSettings
    from tailorbird.errors import InputError, RunError, TailorbirdError
    from tailorbird.evaluation import Evaluation, evaluate
    from tailorbird.experiments import find_learning_rate, learning_curve, sweep
    from tailorbird.explanation import Explanation, explain
    from tailorbird.importing import import_model
    from tailorbird.inference import use_device
    from tailorbird.label_errors import Suspect, Suspects, suspects
    from tailorbird.metrics.scores import Scores
    from tailorbird.model import Classifier, Failure, Prediction, load
    from tailorbird.retraining import Retraining, RetrainSettings, retrain
    from tailorbird.training import TrainResult, TrainSettings, train

__all__ = [
    "Classifier",
    "Comparison",
    "Dataset",
    "Evaluation",
    "Explanation",
    "Failure",
    "Finding",
    "FinetuneSettings",
    "InputError",
    "Prediction",
    "RetrainSettings",
    "Retraining",
    "RunError",
    "Sample",
    "Scores",
    "Suspect",
    "Suspects",
    "TailorbirdError",
    "TrainResult",
    "TrainSettings",
    "compare",
    "evaluate",
    "explain",
    "find_learning_rate",
    "import_model",
    "learning_curve",
    "load",
    "retrain",
    "scan",
    "suspects",
    "sweep",
    "train",
    "use_device",
    "write_manifest",
]

_HOMES = {
    "Classifier": "model",
    "Comparison": "comparison",
    "Dataset": "dataset",
    "Evaluation": "evaluation",
    "Explanation": "explanation",
    "Failure": "model",
    "Finding": "dataset",
    "FinetuneSettings": "engines.finetune.settings",
    "InputError": "errors",
    "Prediction": "model",
    "RetrainSettings": "retraining",
    "Retraining": "retraining",
    "RunError": "errors",
    "Sample": "dataset",
    "Scores": "metrics.scores",
    "Suspect": "label_errors",
    "Suspects": "label_errors",
    "TailorbirdError": "errors",
    "TrainResult": "training",
    "TrainSettings": "training",
    "compare": "comparison",
    "evaluate": "evaluation",
    "explain": "explanation",
    "find_learning_rate": "experiments",
    "import_model": "importing",
    "learning_curve": "experiments",
    "load": "model",
    "retrain": "retraining",
    "scan": "dataset",
    "suspects": "label_errors",
    "sweep": "experiments",
    "train": "training",
    "use_device": "inference",
    "write_manifest": "dataset",
}


_disable_telemetry()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tailorbird")
    if name not in _HOMES:
        raise AttributeError(
            f"module 'tailorbird' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    module = import_module(f"tailorbird.{_HOMES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
