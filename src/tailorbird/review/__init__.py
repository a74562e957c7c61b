"""Review what a scan found: items to decide about, and the manifest with the decisions."""

from tailorbird.review.items import Item
from tailorbird.review.manifest import HEADER, ChangedMeanwhile, Manifest
from tailorbird.review.opening import default_manifest, open_review
from tailorbird.review.session import Choice, Review, ReviewCounts

__all__ = [
    "HEADER",
    "ChangedMeanwhile",
    "Choice",
    "Item",
    "Manifest",
    "Review",
    "ReviewCounts",
    "default_manifest",
    "open_review",
]
