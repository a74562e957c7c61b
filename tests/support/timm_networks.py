"""Small networks of timm with random weights and batch-norm statistics, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailorbird.engines.torch import backend

CNN = "test_efficientnet"
VIT = "test_vit"
CONVNEXT = "test_convnext"
SIDE = 64


def network(name: str = CNN, *, classes: int = 5, seed: int = 0, **arguments: Any) -> Any:
    """Return a network whose weights that start as ones or zeros have random values."""
    torch, timm = backend.load()
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=classes, **arguments).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.ndim == 1:
                value.normal_(float(key.endswith("weight")), 0.2)
    return model


def save_weights(model: Any, path: Path) -> Path:
    """Write a network's weights as safetensors or, by the name, as a .pth file."""
    torch, _ = backend.load()
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path
