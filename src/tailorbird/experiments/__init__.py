"""Experiments over cached features: sweeps of the head's settings, a learning-rate finder, learning curves."""

from tailorbird.experiments.comparison import Comparison
from tailorbird.experiments.photos import Photos, read_photos
from tailorbird.experiments.results import Factor, SettingScore, SweepResult
from tailorbird.experiments.runs import FitScore
from tailorbird.experiments.sweeping import sweep
from tailorbird.experiments.work import Standing

__all__ = [
    "Comparison",
    "Factor",
    "FitScore",
    "Photos",
    "SettingScore",
    "Standing",
    "SweepResult",
    "read_photos",
    "sweep",
]
