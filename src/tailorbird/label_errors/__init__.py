"""Find photos whose label is probably wrong, by out-of-fold probabilities on cached features."""

from tailorbird.label_errors.find import Suspect, Suspects, judge, judge_prepared, suspects, tiles
from tailorbird.label_errors.inspection import Inspection, inspect_dataset
from tailorbird.label_errors.unlike import Unlike

__all__ = [
    "Inspection",
    "Suspect",
    "Suspects",
    "Unlike",
    "inspect_dataset",
    "judge",
    "judge_prepared",
    "suspects",
    "tiles",
]
