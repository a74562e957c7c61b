"""Write a model file as weights and a configuration that `timm.create_model` loads.

    model.safetensors    the network with its classifier; logits are divided by the temperature
    config.json          architecture, classes, input size and normalisation, as timm publishes them

    timm.create_model("local-dir:FOLDER", pretrained=True)
    timm.create_model(ARCHITECTURE, num_classes=C, checkpoint_path="FOLDER/model.safetensors")

The model file's resize rule is there in timm's words: `crop_mode`, `crop_pct`, `interpolation`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.engines.torch import backend, description
from tailorbird.engines.torch.networks import Architecture
from tailorbird.errors import BackboneError, ModelFileError
from tailorbird.files import write_text
from tailorbird.head import Head
from tailorbird.images import ResizeRule
from tailorbird.model.metadata import info_from

if TYPE_CHECKING:
    import onnx

CONFIG = "config.json"


def save_model(
    model: onnx.ModelProto, head: Head, *, size: int, temperature: float, path: Path
) -> None:
    """Write a model file's network and its configuration; arguments as for `Engine.save_model`.

    Raises ModelFileError for a head with inner layers, which a classifier of timm does not have,
    and for a file whose weights were quantised.
    """
    from safetensors.torch import save_file

    if len(head.layers) > 1:
        raise ModelFileError(
            f"its head has {len(head.layers) - 1} inner layers, but a classifier of timm is one "
            "linear layer; train the model without inner layers to export it: --inner 0"
        )
    try:
        net, architecture = description.rebuild(model, size)
    except BackboneError as error:
        raise ModelFileError(str(error)) from None
    torch, _ = backend.load()
    weight, bias = head.layers[0].weight, head.layers[0].bias
    classifier = _with_classifier(net, len(bias))
    if classifier is None:
        raise ModelFileError(
            f"timm's {architecture.name} has no linear classifier on the features it was trained "
            "on here, so it cannot be exported"
        )
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(weight.T / np.float32(temperature)))
        classifier.bias.copy_(torch.from_numpy(bias / np.float32(temperature)))
    state = {name: value.contiguous().clone() for name, value in net.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})
    info = info_from(model, str(path))
    config = configuration(net, architecture, info.resize.at(size), info.classes)
    write_text(path.with_name(CONFIG), json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _with_classifier(net: Any, classes: int) -> Any:
    """Put a new classifier on a network, in place, and return its linear layer, or None."""
    torch, _ = backend.load()
    net.reset_classifier(classes)
    found = net.get_classifier()
    linear = isinstance(found, torch.nn.Linear) and found.out_features == classes
    return found if linear else None


def configuration(
    net: Any, architecture: Architecture, rule: ResizeRule, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Return the content of `config.json`, as timm writes it for the hub."""
    arguments, size = dict(architecture.arguments), rule.size
    if architecture.fixed_size:
        arguments["img_size"] = size
    return {
        "architecture": architecture.plain_name,
        "num_classes": len(classes),
        "num_features": int(net.num_features),
        "label_names": list(classes),
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "tailorbird",
            "custom_load": False,
            "input_size": [3, size, size],
            "fixed_input_size": architecture.fixed_size,
            "interpolation": rule.filter,
            "crop_pct": rule.share,
            "crop_mode": "center" if rule.keep_aspect else "squash",
            "mean": list(architecture.mean),
            "std": list(architecture.std),
            "num_classes": len(classes),
            "pool_size": None,
            "first_conv": None,
            "classifier": (net.pretrained_cfg or {}).get("classifier"),
        },
    }


def run_saved(path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Open a written file by timm's own `checkpoint_path`; return probabilities of images."""
    torch, timm = backend.load()
    config = json.loads(path.with_name(CONFIG).read_text(encoding="utf-8"))
    net = timm.create_model(
        config["architecture"],
        num_classes=config["num_classes"],
        checkpoint_path=str(path),
        **config["model_args"],
    ).eval()
    mean, std = (np.asarray(config["pretrained_cfg"][name], np.float32) for name in ("mean", "std"))
    pixels = ((images.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        logits = net(torch.from_numpy(np.ascontiguousarray(pixels)))
    probabilities: npt.NDArray[np.float32] = torch.softmax(logits, dim=1).numpy()
    return probabilities
