"""Classifiers exported to ONNX by any framework, read for import; needs no framework."""
