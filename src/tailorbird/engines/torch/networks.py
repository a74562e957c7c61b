"""Networks of timm: names, facts, building one, and reading weights files as untrusted input.

A network here is timm's model without a classifier: images float32 (N, 3, S, S), normalised, to
features (N, K), pooled as the network was trained.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tailorbird.engines.torch import backend
from tailorbird.errors import BackboneError, SettingsError
from tailorbird.images import FILTERS, LEAST_SHARE, ResizeRule
from tailorbird.inference import first_line

SCHEME = "timm:"
LEAST_SIDE, MOST_SIDE = 8, 2048
DEFAULT_SHARE = 0.875
"""Share of the shorter side that timm keeps where nothing is stated."""

Arguments = Mapping[str, Any]
"""Arguments of `timm.create_model`, such as {"pad_type": "same"}, and perhaps `mean` and `std`: the
normalisation of pixels from 0 to 1 where weights were trained with another one than timm's."""


@dataclass(frozen=True)
class Architecture:
    """A network of timm with the facts that belong to its weights.

    Attributes:
        name: as timm has it, with or without the tag of its weights: `mobilenetv2_100.ra_in1k`.
        arguments: further arguments of `timm.create_model`.
        mean, std: pixels from 0 to 1 are normalised by them, in the order RGB.
        size: S in pixels that the weights were trained at.
        fixed_size: whether the network has to be told its input size.
        rule: how timm resizes photos for these weights; None if it pads them instead.
        classes: outputs of the published classifier; 0 if it has none.
        classifier: names of its last layers in the weights.
        published: where timm downloads the weights from: a repository OWNER/REPO of the hub, or a
            URL; empty if there are none.
        tag: the tag of the published weights, such as `ra_in1k`, which says what they were trained
            on.
        licence: of the published weights, as stated by timm; empty if not.
    """

    name: str
    arguments: Arguments = field(default_factory=dict)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size: int = 224
    fixed_size: bool = False
    rule: ResizeRule | None = None
    classes: int = 1000
    classifier: tuple[str, ...] = ()
    published: str = ""
    tag: str = ""
    licence: str = ""

    @property
    def plain_name(self) -> str:
        """Return the name without the tag of the weights: `mobilenetv2_100`."""
        return self.name.partition(".")[0]


def name_of(reference: str) -> str:
    """Return NAME of timm:NAME. Raises SettingsError."""
    found = re.fullmatch(r"timm:([\w.-]+)", reference.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise SettingsError(
            f"{reference!r} is not a valid reference to a network of timm; give timm:NAME, for "
            "example timm:mobilenetv3_large_100 or timm:vit_small_patch14_dinov2.lvd142m"
        )
    return found[1]


def find(name: str, arguments: Arguments | None = None) -> Architecture:
    """Return a network of timm by name, which may have the tag of its weights.

    Raises SettingsError for a name that timm does not have or a wrong mean or std, MissingExtra.
    """
    _, timm = backend.load()
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        known = f"; did you mean {', '.join(near)}?" if near else ""
        raise SettingsError(
            f"timm {timm.__version__} has no network {name!r}{known}; timm.list_models() lists all"
        )
    try:
        stated = timm.get_pretrained_cfg(name).to_dict()
    except RuntimeError:  # an unknown tag
        tags = timm.list_pretrained(f"{plain}.*") or [plain]
        raise SettingsError(
            f"timm {timm.__version__} has no weights {name!r}; valid: {', '.join(tags)}"
        ) from None
    side, other = stated["input_size"][1:]
    if side != other:
        raise BackboneError(
            f"{name} takes images of {side} x {other} pixels; only square inputs are supported"
        )
    classifier, given = stated.get("classifier") or (), dict(arguments or {})
    return Architecture(
        name=name,
        arguments={
            key: value for key, value in given.items() if key not in ("mean", "std", "img_size")
        },
        mean=_triple("mean", given.get("mean", stated["mean"])),
        std=_triple("std", given.get("std", stated["std"])),
        size=int(side),
        fixed_size=bool(stated.get("fixed_input_size")),
        rule=published_rule(stated, int(side)),
        classes=int(stated.get("num_classes") or 0),
        classifier=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        published=str(stated.get("hf_hub_id") or stated.get("url") or ""),
        tag=str(stated.get("tag") or ""),
        licence=str(stated.get("license") or ""),
    )


def published_rule(stated: Mapping[str, Any], size: int) -> ResizeRule | None:
    """Return timm's own resize rule (`timm.data.create_transform`), None if this is no such rule.

    stated: `crop_mode`, `crop_pct` and `interpolation`, as `pretrained_cfg` has them.
    """
    mode, words = stated.get("crop_mode") or "center", stated.get("interpolation") or "bilinear"
    share = stated.get("crop_pct") or DEFAULT_SHARE
    if mode not in ("center", "squash") or words not in FILTERS:
        return None
    if not isinstance(share, int | float) or not share >= LEAST_SHARE:
        return None
    return ResizeRule(size, mode == "center", min(1.0, float(share)), words)


def _triple(name: str, value: Any) -> tuple[float, ...]:
    """Return one number for each of R, G and B. Raises SettingsError."""
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    least = 1e-6 if name == "std" else 0.0
    if len(values) != 3 or len(numbers) != 3 or not all(least <= one <= 100 for one in numbers):
        raise SettingsError(
            f"{name} is {value!r}; give one number or three, for pixels from 0 to 1, such as 0.5"
        )
    return tuple(float(one) for one in numbers)


def build(
    architecture: Architecture,
    size: int | None = None,
    *,
    classes: int = 0,
    weights: Mapping[str, Any] | None = None,
    published: bool = False,
) -> Any:
    """Return timm's model in inference mode, on the CPU.

    Args:
        architecture: the network.
        size: S in pixels; None takes the one of its weights.
        classes: outputs of the classifier; 0 leaves the pooled features.
        weights: PyTorch tensors by name, as `read_weights` returns them; timm adapts those of older
            versions, and position embeddings to `size`. All that the model has must be there.
        published: take the published weights instead, which timm downloads the first time.

    Raises SettingsError for arguments or a size that the network cannot have, BackboneError for
    weights that do not fit; what a failed download raises.
    """
    _, timm = backend.load()
    side = size or architecture.size
    check_size(side)
    arguments = dict(architecture.arguments)
    if architecture.fixed_size:
        arguments["img_size"] = side
    overlay: dict[str, Any] | None = None
    if weights is not None:
        overlay = {
            "state_dict": dict(weights),
            "num_classes": classes,
            "custom_load": False,
            "label_offset": 0,
        }
    try:
        model = timm.create_model(
            architecture.name,
            pretrained=published or weights is not None,
            pretrained_cfg_overlay=overlay,
            num_classes=classes,
            exportable=True,
            **arguments,
        )
    except (TypeError, ValueError, AssertionError) as problem:
        raise SettingsError(
            f"timm cannot build {architecture.name} for images of {side} x {side} pixels"
            f"{_shown(architecture.arguments)}: {first_line(problem)}"
        ) from None
    except (RuntimeError, KeyError, AttributeError) as problem:
        if published:
            raise
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        raise BackboneError(
            f"the weights are not those of {architecture.name}{_shown(architecture.arguments)}: "
            f"{'; '.join(lines[1:3] or lines)[:300]}"
        ) from None
    model.pretrained_cfg["state_dict"] = None  # a second copy of the weights
    return model.eval()


def _shown(arguments: Arguments) -> str:
    named = ", ".join(f"{name}={value}" for name, value in arguments.items())
    return f" with {named}" if named else ""


def check_size(side: int) -> None:
    """Raise SettingsError for a size outside LEAST_SIDE to MOST_SIDE."""
    if not LEAST_SIDE <= side <= MOST_SIDE:
        raise SettingsError(
            f"size = {side}; a backbone's input side is {LEAST_SIDE} to {MOST_SIDE} pixels"
        )
