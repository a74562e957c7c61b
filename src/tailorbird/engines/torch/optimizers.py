"""PyTorch's optimisers with a learning rate per layer and decoupled weight decay on kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.protocol import Arrays
from tailorbird.engines.torch import backend
from tailorbird.errors import SettingsError

NAMES = ("adamw", "adam", "sgd", "rmsprop")
SGD_MOMENTUM = 0.9
RMSPROP_DECAY = 0.9  # as Keras has it


def make(
    name: str, parameters: Mapping[str, Any], factors: Mapping[str, float], weight_decay: float
) -> Any:
    """Return an optimiser; `set_rate` sets its learning rate.

    Args:
        name: one of NAMES.
        parameters: those that train, by name.
        factors: learning rate of each as a factor on that of the head; 1 where there is none.
        weight_decay: of kernels, with adamw (Loshchilov and Hutter 2019).
    """
    torch, _ = backend.load()
    groups: dict[tuple[float, float], list[Any]] = {}
    for key, parameter in parameters.items():
        decay = weight_decay if name == "adamw" and parameter.ndim > 1 else 0.0
        groups.setdefault((factors.get(key, 1.0), decay), []).append(parameter)
    given = [
        {"params": values, "weight_decay": decay, "factor": factor}
        for (factor, decay), values in groups.items()
    ]
    fused = {"fused": next(iter(parameters.values())).device.type != "mps"}
    stock: dict[str, tuple[Any, dict[str, Any]]] = {
        "adamw": (torch.optim.AdamW, fused),
        "adam": (torch.optim.Adam, fused),
        "sgd": (torch.optim.SGD, {"momentum": SGD_MOMENTUM, **fused}),
        "rmsprop": (torch.optim.RMSprop, {"alpha": RMSPROP_DECAY, "eps": 1e-7}),
    }
    if name not in stock:
        raise SettingsError(f"optimizer is {name!r}; it must be one of {', '.join(NAMES)}")
    kind, options = stock[name]
    return kind(given, lr=1e-3, **options)


def set_rate(optimizer: Any, rate: float) -> None:
    """Set the head's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def state(optimizer: Any, parameters: Mapping[str, Any]) -> Arrays:
    """Return copies of the optimiser's tensors, by parameter and kind."""
    return {
        f"{name}/{key}": np.array(value.detach().cpu().numpy())
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def load_state(
    optimizer: Any, parameters: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Load what `state` returned. Raises SettingsError for another optimiser's or network's."""
    torch, _ = backend.load()
    optimizer.state.clear()
    for place, value in arrays.items():
        name, _, key = place.rpartition("/")
        if name not in parameters:
            raise SettingsError(
                f"the checkpoint's optimiser has an array for {name}, which does not train in this "
                "stage; begin the stage with the settings it was begun with"
            )
        parameter = parameters[name]
        tensor = torch.from_numpy(np.array(value)).to(parameter.device)
        if tensor.ndim and tensor.shape == parameter.shape:
            kept = torch.empty_like(parameter, memory_format=torch.preserve_format)
            tensor = kept.copy_(tensor).detach()
        optimizer.state[parameter][key] = tensor
