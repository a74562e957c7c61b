"""The head as a PyTorch module, with dropout and batch norm; weights as in `engines.heads`.

Dropout draws from a generator of its own, so that nothing else changes what a seed gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.heads import EPSILON, MOMENTUM
from tailorbird.engines.protocol import Regularisation
from tailorbird.engines.torch import backend

_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Names of batch norm's arrays in `engines.heads`, and PyTorch's."""


def build(
    weights: Mapping[str, npt.NDArray[Any]],
    regularisation: Regularisation,
    generator: Any,
    device: Any,
    part: tuple[int, int] = (0, 1),
) -> Any:
    """Return a module from features float32 (B, K) to logits (B, C), with these weights.

    generator: of the dropout masks.
    part: number of this process and of all that share each batch.
    """
    torch, _ = backend.load()
    made = _module_class()(weights, regularisation.dropout, generator, part).to(device)
    with torch.no_grad():
        for name, tensor in tensors(made).items():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(as_torch(name, weights[name]))))
    return made


def as_torch(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of `engines.heads` in PyTorch's layout, or back: kernels are transposed."""
    return value.T if name.endswith("/kernel") else value


def tensors(module: Any) -> dict[str, Any]:
    """Return the parameters and statistics by the names of `engines.heads`, kernels transposed."""
    found: dict[str, Any] = {}
    for number, (dense, norm) in enumerate(zip(module.dense, module.norms, strict=True)):
        found |= {f"head/{number}/kernel": dense.weight, f"head/{number}/bias": dense.bias}
        if module.normalised[number]:
            found |= {f"head/{number}/{name}": getattr(norm, key) for name, key in _NORM.items()}
    return found


@cache
def _module_class() -> Any:
    torch, _ = backend.load()
    nn = torch.nn
    base: Any = nn.Module

    class HeadModule(base):  # type: ignore[misc]
        def __init__(
            self,
            weights: Mapping[str, npt.NDArray[Any]],
            dropout: float,
            generator: Any,
            part: tuple[int, int],
        ) -> None:
            super().__init__()
            self.dropout, self.generator, self.part = dropout, generator, part
            shapes: list[tuple[int, ...]] = []
            while f"head/{len(shapes)}/kernel" in weights:
                shapes.append(weights[f"head/{len(shapes)}/kernel"].shape)
            self.normalised = [f"head/{n}/gamma" in weights for n in range(len(shapes))]
            self.dense = nn.ModuleList(nn.Linear(*shape) for shape in shapes)
            self.norms = nn.ModuleList(
                nn.BatchNorm1d(shape[1], eps=EPSILON, momentum=1 - MOMENTUM)
                if normalised
                else nn.Identity()
                for shape, normalised in zip(shapes, self.normalised, strict=True)
            )

        def _dropped(self, hidden: Any) -> Any:
            if not self.dropout or not self.training:
                return hidden
            # For the photos of all processes, so that each has the masks that one process would
            # draw for its photos, and the generators of all are in the same state.
            process, processes = self.part
            shape = (len(hidden) * processes, *hidden.shape[1:])
            drawn = torch.rand(shape, generator=self.generator, device=hidden.device)
            drawn = drawn[process::processes]
            return hidden * (drawn >= self.dropout) / (1 - self.dropout)

        def forward(self, features: Any) -> Any:
            hidden = features.float()
            for number, (dense, norm) in enumerate(zip(self.dense, self.norms, strict=True)):
                hidden = norm(dense(self._dropped(hidden)))
                if number + 1 < len(self.dense):
                    hidden = torch.relu(hidden)
            return hidden

        def penalty(self) -> Any:
            """Return half the sum of the squared kernels."""
            return sum(dense.weight.square().sum() for dense in self.dense) / 2

    return HeadModule
