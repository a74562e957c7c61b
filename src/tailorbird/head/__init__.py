"""Train the head: dense layers on cached features of a frozen backbone."""

from tailorbird.head.fit import EpochLog, Fit, HeadSettings, fit
from tailorbird.head.network import Dense, Head
from tailorbird.head.refit import refit
from tailorbird.head.search import SearchResult, Trial, search

__all__ = [
    "Dense",
    "EpochLog",
    "Fit",
    "Head",
    "HeadSettings",
    "SearchResult",
    "Trial",
    "fit",
    "refit",
    "search",
]
