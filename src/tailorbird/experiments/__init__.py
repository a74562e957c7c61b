"""Experiments over cached features: sweeps of the head's settings, a learning-rate finder, learning curves."""

from tailorbird.experiments.comparison import Comparison
from tailorbird.experiments.curve import ClassGain, CurvePoint, LearningCurve, learning_curve
from tailorbird.experiments.photos import Photos, check_outputs, read_photos
from tailorbird.experiments.power_law import Extrapolation, PowerLaw
from tailorbird.experiments.range_test import RateFinding, find_learning_rate
from tailorbird.experiments.results import Factor, SettingScore, SweepResult
from tailorbird.experiments.runs import FitScore
from tailorbird.experiments.sweeping import sweep
from tailorbird.experiments.work import Standing

__all__ = [
    "ClassGain",
    "Comparison",
    "CurvePoint",
    "Extrapolation",
    "Factor",
    "FitScore",
    "LearningCurve",
    "Photos",
    "PowerLaw",
    "RateFinding",
    "SettingScore",
    "Standing",
    "SweepResult",
    "check_outputs",
    "find_learning_rate",
    "learning_curve",
    "read_photos",
    "sweep",
]
