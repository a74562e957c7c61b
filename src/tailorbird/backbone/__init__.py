"""Backbones: ONNX files that turn images into features, and the catalogue of installed ones."""

from tailorbird.backbone.catalogue import at_hand, files_read, find, open_backbone
from tailorbird.backbone.contract import Backbone, BackboneInfo

__all__ = ["Backbone", "BackboneInfo", "at_hand", "files_read", "find", "open_backbone"]
