"""Experiments on cached features: sweeps, learning rates and learning curves."""

from tailorbird.experiments.cross_validation import FitScore
from tailorbird.experiments.data import ExperimentData, check_outputs, read_data
from tailorbird.experiments.learning_curves import (
    ClassGain,
    CurvePoint,
    LearningCurve,
    LearningCurveSettings,
    learning_curve,
)
from tailorbird.experiments.learning_rates import (
    RangeTestSettings,
    RateFinding,
    find_learning_rate,
)
from tailorbird.experiments.paired_tests import SettingComparison
from tailorbird.experiments.power_law import Extrapolation, PowerLaw
from tailorbird.experiments.sweep_results import Factor, FoldScores, SettingScore, SweepResult
from tailorbird.experiments.sweep_run import Standing, SweepSettings
from tailorbird.experiments.sweeping import sweep

__all__ = [
    "ClassGain",
    "CurvePoint",
    "ExperimentData",
    "Extrapolation",
    "Factor",
    "FitScore",
    "FoldScores",
    "LearningCurve",
    "LearningCurveSettings",
    "PowerLaw",
    "RangeTestSettings",
    "RateFinding",
    "SettingComparison",
    "SettingScore",
    "Standing",
    "SweepResult",
    "SweepSettings",
    "check_outputs",
    "find_learning_rate",
    "learning_curve",
    "read_data",
    "sweep",
]
