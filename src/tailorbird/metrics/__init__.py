"""Scores, calibration, confidence thresholds, and paired tests between models."""
