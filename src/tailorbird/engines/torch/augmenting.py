"""Augmented views and mixed batches, made on the device for a whole batch at once.

A view is what `images.warp` makes with Pillow, to a few grey levels: the same affine map of the
same picture, brightness and erased rectangle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tailorbird.engines.finetune.mixing import corners, share_kept
from tailorbird.engines.protocol import Mix, Views
from tailorbird.engines.torch import backend
from tailorbird.images import GREY


def sampling_maps(views: Views, size: int) -> Any:
    """Return the maps of views as `affine_grid` takes them, float32 (B, 2, 3).

    There the centre of an image is 0 and its sides are at -1 and 1. size: S of the views.
    """
    torch, _ = backend.load()
    side = views.pictures.shape[1]
    linear, offset = views.maps[..., :2].astype(np.float64), views.maps[..., 2].astype(np.float64)
    centre = linear.sum(axis=2) * size / 2 + offset
    theta = np.concatenate([linear * (size / side), (centre * 2 / side - 1)[..., None]], axis=2)
    return torch.from_numpy(theta.astype(np.float32))


def augmented(pictures: Any, theta: Any, brightness: Any, erased: Any, size: int) -> Any:
    """Return views as float32 (B, 3, S, S), whole numbers from 0 to 255.

    Args:
        pictures: uint8 (B, T, T, 3) on the device.
        theta: what `sampling_maps` returned.
        brightness: float32 (B,).
        erased: int64 (B, 4), as in `Views`.
        size: S.
    """
    torch, _ = backend.load()
    functional = torch.nn.functional
    source = pictures.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(theta, (len(theta), 3, size, size), align_corners=False)
    found = functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
    found = (found.round() * brightness[:, None, None, None]).round().clamp(0, 255)
    at = torch.arange(size, device=pictures.device)
    top, left, bottom, right = erased[:, :, None].unbind(1)
    rows, columns = (at >= top) & (at < bottom), (at >= left) & (at < right)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, torch.full_like(found, GREY), found)


def mixed(inputs: Any, mix: Mix, partners: Any) -> tuple[Any, float]:
    """Return mixed inputs (B, C, h, w) or (B, ...), and the share of each photo's own label.

    partners: `mix.partners` on the device.
    """
    torch, _ = backend.load()
    spatial = tuple(inputs.shape[2:]) if inputs.ndim == 4 else ()
    share = share_kept(mix, spatial)
    others = inputs[partners]
    if mix.box is None or not spatial:
        return torch.lerp(others, inputs, share), share
    top, left, bottom, right = corners(mix, *spatial)
    found = inputs.clone()
    found[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return found, share
