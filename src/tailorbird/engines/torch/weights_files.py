"""Read weights files of PyTorch as untrusted input: safetensors, or tensors alone of a .pth file.

A .pth file is a pickle, which can run any code. PyTorch's restricted reader (weights_only) accepts
tensors and plain containers, and refuses everything else before it is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailorbird.engines.torch import backend
from tailorbird.errors import BackboneError
from tailorbird.inference import first_line

SAFE = ".safetensors"


def read_weights(path: Path) -> dict[str, Any]:
    """Return the tensors of a weights file by name, on the CPU.

    Of a checkpoint that timm's or torchvision's training script wrote, these are its weights, the
    averaged ones if it has them. Raises BackboneError, MissingExtra.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise BackboneError(f"{path} {what}; give a weights file, .safetensors or .pth")
    torch, _ = backend.load()
    from timm.models import load_state_dict

    try:
        if path.suffix.lower() == SAFE:
            from safetensors.torch import load_file

            found = load_file(path, device="cpu")
        else:
            found = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as problem:  # safetensors, zip and pickle errors share no base class
        raise BackboneError(_why(path, problem)) from None
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise BackboneError(f"{path} holds no weights")
    damaged = [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and bool(value.isnan().any())
    ]
    if damaged:
        raise BackboneError(f"{path}: {len(damaged)} weights hold NaN, the first is {damaged[0]!r}")
    return tensors


def _why(path: Path, problem: Exception) -> str:
    text = str(problem)
    if "weights_only" in text or "Unsupported" in text:
        return (
            f"{path} holds more than weights, which would run program code when it is opened, and "
            "is not read; save the weights alone: "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        )
    return (
        f"{path} is not a weights file of PyTorch, or it is truncated ({first_line(problem)}); "
        "valid: .safetensors, or a .pth file of a state_dict"
    )
