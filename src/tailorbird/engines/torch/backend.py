"""Import PyTorch and timm when they are first needed, without their log output."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from typing import Any

from tailorbird import installing
from tailorbird.errors import MissingExtra

_NEEDED = ("torch", "timm", "onnxscript")


def load() -> tuple[Any, Any]:
    """Return the modules `torch` and `timm`, imported on first use.

    Raises MissingExtra when one of them, or the exporter's part onnxscript, is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; to "
            f"install PyTorch with timm: {installing.install('torch')}"
        )
    if "tensorflow" in sys.modules and "triton" not in sys.modules:
        # Triton's LLVM and TensorFlow's do not fit into one process: importing triton second ends
        # it with a segmentation fault (seen with TensorFlow 2.21 and triton 3). Only torch.compile
        # needs triton, which nothing here uses; None makes PyTorch take it as not installed.
        sys.modules["triton"] = None  # type: ignore[assignment]
    for name in ("timm", "torch.onnx", "torch.export", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torch"), importlib.import_module("timm")


def versions() -> str:
    """Return the versions of PyTorch and timm, in words. Raises MissingExtra."""
    torch, timm = load()
    return f"PyTorch {torch.__version__}, timm {timm.__version__}"
