"""Measure a training step of EfficientNet-Lite2 in PyTorch, on one core: plain, folded, bfloat16.

    python benchmarks/finetune_step.py [--size 192] [--batch 32] [--repeats 5] [--compile]

A step is the forward and backward pass above the layers that stay frozen by default. Plain is the
network as timm runs it; folded has its batch normalisations folded into the convolutions; bfloat16
is folded as well, with the depthwise convolutions in float32, and `all` is plain with every
convolution in bfloat16. They take turns; the time of each is the shortest, in seconds of this
thread, so that other work on the machine does not count. The ratio is plain over bfloat16.

--compile adds both with torch.compile (needs a C++ compiler), and prints the seconds of the first
compiled step of each, compiler included, and after how many steps they are won back.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

from common import parser, report

from tailorbird.engines.finetune.plan import LOW_SHARE
from tailorbird.engines.torch import backend
from tailorbird.engines.torch.folding import folded
from tailorbird.engines.torch.tracing import TracedNetwork


def seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def processor(run: Callable[[], object]) -> float:
    """Return the processor seconds of a call, in this process and its children."""

    def now() -> float:
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        return sum(one.ru_utime + one.ru_stime for one in usage)

    start = now()
    run()
    return now() - start


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--size", type=int, default=192)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--compile", action="store_true")
    given = options.parse_args()
    torch, timm = backend.load()
    torch.set_num_threads(1)
    net = timm.create_model("tf_efficientnet_lite2", num_classes=0).eval()
    net = net.to(memory_format=torch.channels_last)
    whole = TracedNetwork(net, given.size)
    least = LOW_SHARE * whole.places[0].cut.parameters
    place = max(n for n, one in enumerate(whole.places) if one.cut.parameters >= least)
    trained = {name for layer in whole.places[place].layers for name in layer.names}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trained)
    with torch.no_grad():
        images = torch.randn(given.batch, 3, given.size, given.size)
        inputs = whole.below(place)(images).contiguous(memory_format=torch.channels_last)
    plain, fast = whole.above(place), folded(whole.above(place))

    def step(part: Any, dtype: Any) -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            features = part(inputs)
        features.float().square().sum().backward()
        net.zero_grad(set_to_none=True)

    ways = {
        "plain": (plain, None),
        "folded": (fast, None),
        "bfloat16": (fast, torch.bfloat16),
        "all": (plain, torch.bfloat16),
    }
    first: dict[str, float] = {}
    if given.compile:
        for name, dtype in (("compiled", None), ("compiled bfloat16", torch.bfloat16)):
            ways[name] = (torch.compile(fast), dtype)
            torch.compiler.reset()
            first[name] = processor(lambda name=name: step(*ways[name]))
            print(f"{name}: first step {first[name]:.1f} s of processor time", flush=True)
    found: dict[str, float] = {}
    for _ in range(1 + given.repeats):  # the first turn warms up
        for name, (part, dtype) in ways.items():
            spent = seconds(lambda part=part, dtype=dtype: step(part, dtype))
            found[name] = min(spent, found.get(name, spent))
    print(", ".join(f"{name} {value:.3f} s" for name, value in found.items()))
    for name in first:
        won = found["bfloat16" if "bfloat16" in name else "folded"] - found[name]
        after = f"won back after {first[name] / won:.0f} steps" if won > 0 else "never won back"
        print(f"{name}: {after}")
    report(
        "finetune_step",
        found["plain"] / found["bfloat16"],
        "> 1 on processors with bfloat16 instructions",
        size=given.size,
        batch=given.batch,
        **found,
    )


if __name__ == "__main__":
    main()
