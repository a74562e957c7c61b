"""Photos whose label is probably wrong: out-of-fold probabilities over cached features, ranked and counted."""

from tailorbird.label_errors.find import Suspect, Suspects, judge, judge_prepared, suspects, tiles

__all__ = ["Suspect", "Suspects", "judge", "judge_prepared", "suspects", "tiles"]
