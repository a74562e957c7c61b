"""Batch normalisation with fixed statistics, folded into the convolution before it.

    y = g (w * x - m) / sqrt(v + e) + b  =  (s w) * x + (b - s m),   s = g / sqrt(v + e)

The scaled kernel s w is computed in every step, so that w, g and b train as before. In sixteen-bit
arithmetic on a CPU a depthwise convolution stays in float32: PyTorch has no fast backward pass for
it in bfloat16. Measured by benchmarks/finetune_step.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tailorbird.engines.torch import backend


def folded(part: Any) -> Any:
    """Return a part with its batch normalisations folded into convolutions, sharing the weights.

    part: module from `tracing`, in inference mode; changed in place. One that is no graph of
        torch.fx is returned as it is.
    """
    torch, _ = backend.load()
    if not isinstance(part, torch.fx.GraphModule):
        return part
    modules = dict(part.named_modules())
    for number, node in enumerate(list(part.graph.nodes)):
        before = node.all_input_nodes[0] if node.op == "call_module" else None
        if before is None or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution: Any = modules.get(before.target)
        norm: Any = modules.get(node.target)
        if type(convolution) not in _convolutions() or type(norm) not in _norms():
            continue
        if not norm.affine or not norm.track_running_stats:
            continue
        name = f"folded_{number}"
        part.add_submodule(name, _folded_module()(convolution, norm))
        with part.graph.inserting_after(node):
            made = part.graph.call_module(name, before.args)
        node.replace_all_uses_with(made)
        part.graph.erase_node(node)
        part.graph.erase_node(before)
    part.delete_all_unused_submodules()
    part.recompile()
    return part.eval()


def folds(part: Any) -> bool:
    """Return whether `folded` found something to fold in a part."""
    return any(isinstance(module, _folded_module()) for module in part.modules())


@cache
def _convolutions() -> tuple[Any, ...]:
    torch, _ = backend.load()
    from timm.layers import Conv2dSame

    return torch.nn.Conv2d, Conv2dSame


@cache
def _norms() -> tuple[Any, ...]:
    torch, _ = backend.load()
    from timm.layers import BatchNormAct2d

    return torch.nn.BatchNorm2d, BatchNormAct2d


@cache
def _folded_module() -> Any:
    torch, _ = backend.load()
    from timm.layers import BatchNormAct2d, conv2d_same

    base: Any = torch.nn.Module

    class Folded(base):  # type: ignore[misc]
        """A convolution, a batch normalisation with its statistics, and its activation if any."""

        def __init__(self, convolution: Any, norm: Any) -> None:
            super().__init__()
            self.convolution, self.norm = convolution, norm

        def _convolved(self, maps: Any, kernel: Any, bias: Any) -> Any:
            one = self.convolution
            if type(one) is torch.nn.Conv2d:
                return one._conv_forward(maps, kernel, bias)
            return conv2d_same(
                maps, kernel, bias, one.stride, one.padding, one.dilation, one.groups
            )

        def forward(self, maps: Any) -> Any:
            one, norm = self.convolution, self.norm
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            mean = norm.running_mean if one.bias is None else norm.running_mean - one.bias
            kernel, bias = one.weight * scale.reshape(-1, 1, 1, 1), norm.bias - mean * scale
            if one.groups > 1 and maps.device.type == "cpu":
                with torch.autocast("cpu", enabled=False):
                    found = self._convolved(maps.float(), kernel, bias)
            else:
                found = self._convolved(maps, kernel, bias)
            return norm.act(norm.drop(found)) if isinstance(norm, BatchNormAct2d) else found

    return Folded
