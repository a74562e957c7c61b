"""Convert a network of timm to the content of a backbone file, and compare the file with PyTorch.

    images uint8 (N, S, S, 3) -> (pixels / 255 - mean) / std -> network -> features (N, K)

Every weight keeps its own initialiser, `net.` and its name in the state_dict: nothing is folded
into it (batch normalisation stays a node of its own, and the runtime merges it on opening). So the
network can be rebuilt from the file, and new weights can be put into it by name.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird import onnx_files
from tailorbird.backbone.contract import rule_entry
from tailorbird.engines.agreement import check_agreement
from tailorbird.engines.torch import backend, description
from tailorbird.engines.torch.description import PREFIX
from tailorbird.engines.torch.networks import Architecture
from tailorbird.errors import BackboneError
from tailorbird.images import ResizeRule
from tailorbird.inference import first_line

if TYPE_CHECKING:
    import onnx

CONVERTER = 1
"""Version of the conversion; increase it when results change, so that older files are rewritten."""

OPSET = 18
MOST_BYTES = 1_800_000_000
"""Maximum size of the weights: a protobuf file cannot exceed 2 GiB."""

_SAME = 1e-5
"""Maximum difference of features from the mean of a map, relative to the largest feature."""


def export(
    model: Any,
    architecture: Architecture,
    size: int,
    about: Mapping[str, str],
    rule: ResizeRule | None = None,
) -> onnx.ModelProto:
    """Return the content of a backbone file for a network, not yet compared.

    The output `feature_map` is there if the features are the mean of what is under the pooling.

    Args:
        model: timm's model in inference mode; without a classifier, it gives features (N, K).
        architecture: its name, arguments and normalisation.
        size: S in pixels.
        about: further metadata.
        rule: how photos are resized, at any size; None: squashed.

    Raises BackboneError for a network that cannot be converted.
    """
    weight = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if weight > MOST_BYTES:
        raise BackboneError(
            f"{architecture.name} has {weight / 1e9:.1f} GB of weights; at most "
            f"{MOST_BYTES / 1e9:.1f} GB fit into one backbone file; choose a smaller network of "
            "its family"
        )
    module, images = backbone_module(model, architecture), _images(size)
    with computing(architecture.name):
        features = module(images)
    if features.ndim != 2:
        raise BackboneError(
            f"{architecture.name} gives {tuple(features.shape)}; a backbone must give one row of "
            "features per image, (N, K)"
        )
    kind = _map_kind(module, images, features)
    module.map_kind = kind
    names = ["features", "feature_map"] if kind else ["features"]
    proto, unused = convert(module, images, names, architecture.name)
    rule = rule.at(size) if rule is not None else ResizeRule(size)
    facts = {
        "pooling": "mean" if kind else f"the network's own ({_pooling(model)})",
        "input": f"uint8 RGB (N,{size},{size},3)",
        "resize": f"{rule.sentence()}; the publisher's: {_published(architecture)}",
        **rule_entry(rule),
        "converter": str(CONVERTER),
    }
    entry = description.describe(architecture, unused)
    onnx_files.set_metadata(proto, {**facts, **entry, **about})
    return proto


def _published(architecture: Architecture) -> str:
    """Return in words how timm resizes photos."""
    return architecture.rule.sentence() if architecture.rule is not None else "padded to a square"


def verify(
    proto: onnx.ModelProto, model: Any, architecture: Architecture, images: npt.NDArray[np.uint8]
) -> float:
    """Compare a backbone file with PyTorch; see `agreement.check_agreement`."""
    torch, _ = backend.load()
    module = backbone_module(model, architecture)
    with computing(architecture.name):
        expected = module(torch.from_numpy(images)).numpy()
    return check_agreement(
        proto, images, expected, name=architecture.name, framework=backend.versions()
    )


def backbone_module(model: Any, architecture: Architecture) -> Any:
    """Return a module from uint8 (N, S, S, 3) to the features (N, K) of timm's model."""
    return _module_class()(model, architecture.mean, architecture.std).eval()


@cache
def _module_class() -> Any:
    torch, _ = backend.load()
    base: Any = torch.nn.Module

    class Backbone(base):  # type: ignore[misc]
        """Normalisation and network; with `map_kind`, also the map whose mean the features are."""

        def __init__(self, net: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
            super().__init__()
            self.net = net  # the names of its weights begin with `net.`
            scale = torch.tensor([1 / 255 / one for one in std])
            offset = torch.tensor([-one / other for one, other in zip(mean, std, strict=True)])
            self.register_buffer("scale", scale.reshape(1, 3, 1, 1), persistent=False)
            self.register_buffer("offset", offset.reshape(1, 3, 1, 1), persistent=False)
            self.map_kind: str | None = None

        def pixels(self, images: Any) -> Any:
            return images.permute(0, 3, 1, 2).float() * self.scale + self.offset

        def forward(self, images: Any) -> Any:
            pixels = self.pixels(images)
            if self.map_kind is None:
                return self.net(pixels)
            found = self.net.forward_features(pixels)
            return self.net.forward_head(found), as_map(found, self.map_kind, self.net)

    return Backbone


def as_map(found: Any, kind: str, net: Any) -> Any:
    """Return what `forward_features` gave as a map (N, K, h, w).

    kind: `first` (N, K, h, w), `last` (N, h, w, K), or `tokens` (N, prefix + h * w, K).
    """
    if kind == "first":
        return found
    if kind == "last":
        return found.permute(0, 3, 1, 2)
    patches = found[:, int(getattr(net, "num_prefix_tokens", 0) or 0) :]
    side = round(patches.shape[1] ** 0.5)
    return patches.permute(0, 2, 1).unflatten(2, (side, side))


def _map_kind(module: Any, images: Any, features: Any) -> str | None:
    """Return how the map under the pooling is read if features are its mean; None if not."""
    net = module.net
    with computing("the network"), contextlib.suppress(Exception):  # a network without these parts
        found = net.forward_features(module.pixels(images))
        allowed = _SAME * float(features.abs().max())
        again = net.forward_head(found)
        kinds = {4: ("first", "last"), 3: ("tokens",)}.get(found.ndim, ())
        for kind in kinds:
            values = as_map(found, kind, net)
            same = values.shape[1] == features.shape[1] and values.shape[2] == values.shape[3]
            if same and float((values.mean(dim=(2, 3)) - features).abs().max()) <= allowed:
                return kind if float((again - features).abs().max()) <= allowed else None
    return None


def _pooling(model: Any) -> str:
    """Return how a network pools, in words."""
    pool = getattr(model, "global_pool", None)
    kind = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
    return {"token": "class token", "map": "attention", "avg": "mean, then a norm"}.get(
        str(kind or ""), str(kind or type(model).__name__)
    )


def _images(size: int) -> Any:
    """Return two different images, uint8 (2, S, S, 3), as a tensor."""
    torch, _ = backend.load()
    random = np.random.default_rng(20)
    return torch.from_numpy(random.integers(0, 256, (2, size, size, 3), np.uint8))


def convert(
    module: Any, images: Any, names: list[str], name: str, *, source: str = "images"
) -> tuple[onnx.ModelProto, list[str]]:
    """Return a module as an ONNX graph with every weight under its own name.

    Args:
        module: PyTorch module that takes images; its weights under test are those of `module.net`.
        images: example input, at least two images.
        names: of the outputs.
        name: of the network, for messages.
        source: name of the input.

    Returns:
        The graph and the names of the network's weights that it does not use, without `net.`.

    Raises BackboneError when PyTorch cannot export the network for batches of any size.
    """
    torch, _ = backend.load()
    try:
        with computing(name), _quiet():
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                input_names=[source],
                output_names=names,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
        proto = program.model_proto
    except BackboneError:
        raise
    except Exception as problem:  # the exporter's errors share no base class
        raise BackboneError(
            f"PyTorch {torch.__version__} cannot export {name} to ONNX: {_reason(problem)}"
        ) from None
    return _simplified(proto, [PREFIX + key for key in module.net.state_dict()])


def _simplified(proto: onnx.ModelProto, weights: list[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Return a graph without what is constant, but with each weight under its own name.

    While constants are folded, the weights are inputs.
    """
    import onnx
    import onnxscript.optimizer
    from onnx import helper

    wanted = set(weights)
    held = {
        tensor.name: onnx.TensorProto.FromString(tensor.SerializeToString())
        for tensor in proto.graph.initializer
        if tensor.name in wanted
    }
    others = [
        onnx.TensorProto.FromString(tensor.SerializeToString())
        for tensor in proto.graph.initializer
        if tensor.name not in held
    ]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(others)
    proto.graph.input.extend(
        helper.make_tensor_value_info(key, tensor.data_type, list(tensor.dims))
        for key, tensor in held.items()
    )
    with _quiet():
        proto = onnxscript.optimizer.optimize(proto)
    images = [value for value in proto.graph.input if value.name not in held]
    del proto.graph.input[:]
    proto.graph.input.extend(images)
    used = {key for node in onnx_files.nodes(proto.graph) for key in node.input}
    proto.graph.initializer.extend(tensor for key, tensor in held.items() if key in used)
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]  # places in PyTorch's source code
        node.doc_string = ""
    proto.producer_name, proto.graph.name = "tailorbird", "backbone"
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return proto, [key.removeprefix(PREFIX) for key in weights if key not in used]


@contextlib.contextmanager
def computing(name: str) -> Iterator[None]:
    """Compute without gradients; translate what PyTorch raises into BackboneError."""
    torch, _ = backend.load()
    try:
        with torch.no_grad():
            yield
    except RuntimeError as problem:
        raise BackboneError(f"PyTorch cannot run {name}: {first_line(problem)}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's messages off the terminal."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _reason(problem: Exception) -> str:
    """Return the cause of a failed export in one line."""
    cause = problem
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    return first_line(cause)
