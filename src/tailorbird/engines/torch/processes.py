"""Processes that train one network together, each on its part of every batch.

PyTorch's launcher (`torchrun`) starts them and sets RANK and WORLD_SIZE; without it there is one.
Gradients are averaged by DistributedDataParallel. What the processes agree on travels over Gloo, on
the CPU, so that no GPU waits for it.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.torch import backend


class Processes:
    """The group of processes that this one belongs to."""

    def __init__(self, device: Any) -> None:
        """Join the group that the launcher's environment names, if any."""
        self._device = device
        self.number = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._group: Any = None
        if self.count == 1:
            return
        distributed = _distributed()
        if not distributed.is_initialized():
            on_gpu = device.type == "cuda"
            distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        self._group = distributed.new_group(backend="gloo")

    def wrap(self, module: Any) -> Any:
        """Return a module that averages gradients over the processes."""
        torch, _ = backend.load()
        if self.count == 1 or not any(value.requires_grad for value in module.parameters()):
            return module
        ids = [self._device] if self._device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(module, device_ids=ids)

    def together(self, module: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are averaged only at the last part of a batch."""
        return contextlib.nullcontext() if self.count == 1 or last else module.no_sync()

    def summed(self, loss: Any, correct: Any) -> tuple[Any, Any]:
        """Return the mean loss and the sum of correct answers of all processes."""
        torch, _ = backend.load()
        if self.count == 1:
            return loss, correct
        both = torch.stack([loss / self.count, correct.to(loss.dtype)])
        _distributed().all_reduce(both)
        return both[0], both[1]

    def agree(self, value: float) -> float:
        """Return the value of the first process, the same in all of them."""
        torch, _ = backend.load()
        if self.count == 1:
            return value
        sent = torch.tensor([value], dtype=torch.float64)
        _distributed().broadcast(sent, 0, group=self._group)
        return float(sent[0])

    def gather(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the rows of all processes, (P, n, C)."""
        torch, _ = backend.load()
        if self.count == 1:
            return rows[None]
        mine = torch.from_numpy(np.ascontiguousarray(rows))
        every = [torch.empty_like(mine) for _ in range(self.count)]
        _distributed().all_gather(every, mine, group=self._group)
        return np.stack([one.numpy() for one in every])


def leave() -> None:
    """Leave the group of processes, when all have finished."""
    distributed = _distributed()
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _distributed() -> Any:
    torch, _ = backend.load()
    return torch.distributed
