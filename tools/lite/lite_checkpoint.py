"""Read the tensors of a PyTorch checkpoint without PyTorch and without executing its pickle.

The package's checkpoint has the format of PyTorch before 1.6: four pickles (a magic number, a
protocol version, facts of the machine, the state dict), a pickled list of the keys of the storages,
and behind them each storage as an int64 count and its raw values.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

Tensor = npt.NDArray[Any]


@dataclass(frozen=True)
class _Pending:
    """A tensor whose storage has not been read yet."""

    storage: str
    kind: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(
    storage: tuple[str, np.dtype[Any]],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: object,
) -> _Pending:
    return _Pending(*storage, offset, shape, strides)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows four names and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"the checkpoint names {module}.{name}; it is refused")
        return _ALLOWED[module, name]

    def persistent_load(self, identity: Any) -> tuple[str, np.dtype[Any]]:
        _, kind, key, *_ = identity
        return str(key), kind


def read(content: bytes) -> dict[str, Tensor]:
    """Return a checkpoint's tensors by name.

    Raises:
        pickle.UnpicklingError: It is not such a checkpoint, or names anything but tensors.
    """
    stream = io.BytesIO(content)
    load: Callable[[], Any] = lambda: _Unpickler(stream).load()  # noqa: E731
    if load() != MAGIC or load() != PROTOCOL:
        raise pickle.UnpicklingError("this is not a checkpoint of PyTorch before 1.6")
    load()
    pending: dict[str, _Pending] = load()
    kinds = {tensor.storage: tensor.kind for tensor in pending.values()}
    storages = {key: _storage(stream, kinds[key]) for key in load()}
    return {name: _tensor(storages[tensor.storage], tensor) for name, tensor in pending.items()}


def _storage(stream: io.BytesIO, kind: np.dtype[Any]) -> Tensor:
    count = int.from_bytes(stream.read(8), "little")
    return np.frombuffer(stream.read(count * kind.itemsize), kind, count)


def _tensor(storage: Tensor, tensor: _Pending) -> Tensor:
    strides = tuple(stride * tensor.kind.itemsize for stride in tensor.strides)
    view = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides)
    return view.copy()
