"""Label photos from nothing: which to ask about next, what to propose, when to stop."""

from tailorbird.labelling.answers import KINDS, Answer, Step
from tailorbird.labelling.outlook import Outlook
from tailorbird.labelling.screens import Asked, Screen
from tailorbird.labelling.session import (
    AnsweredMeanwhile,
    Given,
    Labelling,
    default_manifest,
    open_labelling,
)
from tailorbird.labelling.settings import LabelSettings

__all__ = [
    "KINDS",
    "Answer",
    "AnsweredMeanwhile",
    "Asked",
    "Given",
    "LabelSettings",
    "Labelling",
    "Outlook",
    "Screen",
    "Step",
    "default_manifest",
    "open_labelling",
]
