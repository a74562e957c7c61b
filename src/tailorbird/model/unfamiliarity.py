"""How unlike the training photos a photo is, told by its features.

    distance       1 - max_p cos(features, prototype_p)       0 to 2
    none           log-probability of "none of these"         where photos of no class taught it
    unfamiliarity  max of (signal - typical) / (limit - typical) over these signals:
                   0 as a usual photo of the classes, above 1 unlike nearly all of them

The prototypes are centres of spherical k-means (I. S. Dhillon and D. S. Modha, Machine Learning 42,
2001) over the features of the training photos: the nearest neighbour of Y. Sun, Y. Ming, X. Zhu and
Y. Li (Out-of-distribution detection with deep nearest neighbors, ICML 2022) with few vectors
instead of all. benchmarks/unfamiliarity.py compares it with other scores. "None of these" is a
further class beside the others in a logistic regression of its own, so that the answers of the
model's head do not change.

Shapes: N photos, K features, P prototypes, C classes, S signals (1 or 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.errors import ModelFileError
from tailorbird.head import Dense
from tailorbird.onnx_files import NodeBuilder
from tailorbird.parallel import one_blas_thread

PROTOTYPES: Final = 256
"""Number of prototypes; more than 128 classes have two each."""

MOST_PROTOTYPES: Final = 1024
ITERATIONS: Final = 3

PHOTOS_EACH: Final = 4
"""Least number of training photos for a prototype: a prototype of one photo is that photo."""

MOST_FEATURES: Final = 8192
"""Largest K; prototypes of more would be larger than most backbones."""

MOST_FITTED: Final = 20_000
"""Training photos to find prototypes on; of more, so many are drawn."""

CHUNK: Final = 512
"""Photos that a thread compares with the prototypes at once."""

SMALLEST: Final = 1e-12
"""Features of a smaller norm count as this long, so that nothing is divided by 0."""

NARROWEST: Final = 1e-4
"""Least difference of a signal between 0 and 1, so that rounding does not decide."""

Features = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Unfamiliarity:
    """The score of a model file.

    prototypes: float16 (K, P), columns of length 1; half the bytes of float32, and no score changes
    by more than a thousandth of the scale. taught: logistic regression (K, C + 1) whose last class
    is "none of these"; None where no photos taught it. scales: for each signal, the value that
    becomes 0 and the value that becomes 1.
    """

    prototypes: npt.NDArray[np.float16]
    taught: Dense | None = None
    scales: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what gives no finite score."""
        count = 1 if self.taught is None else 2
        if not self.scales:
            object.__setattr__(self, "scales", ((0.0, 1.0),) * count)
        if self.prototypes.ndim != 2 or not self.prototypes.shape[1]:
            raise ValueError(f"prototypes need shape (K, P), not {self.prototypes.shape}")
        if self.taught is not None and len(self.taught.weight) != len(self.prototypes):
            raise ValueError(f"the regression takes {len(self.taught.weight)} features")
        values = [self.prototypes, *(vars(self.taught).values() if self.taught else ())]
        if not all(np.isfinite(value).all() for value in values):
            raise ValueError("its weights must be finite")
        if len(self.scales) != count or not all(
            0 < limit - typical < np.inf for typical, limit in self.scales
        ):
            raise ValueError(
                f"the scales are {self.scales}; a limit must be above its typical value"
            )

    def signals(self, features: Features) -> Scores:
        """Return the distance and, where taught, the log-probability of none, float32 (N, S)."""
        nearest = (_directions(features) @ self.prototypes.astype(np.float32)).max(axis=1)
        found = [1 - nearest]
        if self.taught is not None:
            logits = features @ self.taught.weight + self.taught.bias
            top = logits.max(axis=1)
            found.append(logits[:, -1] - top - np.log(np.exp(logits.T - top).sum(axis=0)))
        return np.stack(found, axis=1).astype(np.float32)

    def of_signals(self, signals: Scores) -> Scores:
        """Return the unfamiliarity, float32 (N,), from signals (N, S)."""
        typical, limit = np.array(self.scales).T
        return np.asarray(((signals - typical) / (limit - typical)).max(axis=1), np.float32)

    def scores(self, features: Features) -> Scores:
        """Return the unfamiliarity of photos, float32 (N,), from features float32 (N, K)."""
        return self.of_signals(self.signals(features))

    def scaled(self, signals: Scores, share: float) -> Unfamiliarity:
        """Return it with the scales of photos of the classes, signals (N, S).

        0 is the median of each signal. At 1 each signal refuses an equal part of the share.
        """
        levels = [0.5, 1 - share / signals.shape[1]]
        found = np.quantile(signals.astype(np.float64), levels, axis=0).T.tolist()
        scales = tuple((low, max(high, low + NARROWEST)) for low, high in found)
        return replace(self, scales=scales)

    def nodes(self, add: NodeBuilder, features: str) -> None:
        """Append the nodes that compute the output `unfamiliarity` from features (N, K).

        They are the same in every version of the operator set, unlike reductions.
        """
        signals = [self._distance(add, features)]
        if self.taught is not None:
            signals.append(self._none(add, features, self.taught))
        scaled = []
        for number, (signal, (typical, limit)) in enumerate(zip(signals, self.scales, strict=True)):
            start = add.constant(f"typical{number}", np.float32(typical))
            span = add.constant(f"span{number}", np.float32(limit - typical))
            scaled.append(add.node("Div", add.node("Sub", signal, start), span))
        flat = add.constant("one_axis", np.array([-1], np.int64))
        add.node("Reshape", add.node("Max", *scaled), flat, name="unfamiliarity")

    def _distance(self, add: NodeBuilder, features: str) -> str:
        from onnx import TensorProto

        ones = add.constant("ones", np.ones((len(self.prototypes), 1), np.float32))
        norm = add.node("Sqrt", add.node("MatMul", add.node("Mul", features, features), ones))
        norm = add.node("Max", norm, add.constant("smallest", np.float32(SMALLEST)))
        stored = add.constant("prototypes", self.prototypes)
        products = add.node("MatMul", features, add.node("Cast", stored, to=TensorProto.FLOAT))
        first = add.constant("first", np.array([1], np.int64))
        add.node("TopK", products, first, outputs=2, axis=1, largest=1, sorted=1)
        nearest = add.node("Div", add.nodes[-1].output[0], norm)
        return add.node("Sub", add.constant("one", np.float32(1)), nearest)

    def _none(self, add: NodeBuilder, features: str, taught: Dense) -> str:
        weight = add.constant("taught_weight", taught.weight)
        logits = add.node("Gemm", features, weight, add.constant("taught_bias", taught.bias))
        last = add.constant("last_class", np.array([len(taught.bias) - 1], np.int64))
        return add.node("Gather", add.node("LogSoftmax", logits, axis=1), last, axis=1)

    @classmethod
    def within(
        cls, constants: Mapping[str, npt.NDArray[Any]], width: int, name: str
    ) -> Unfamiliarity | None:
        """Read it from the constants that `nodes` added to a graph; None if there are none.

        width: K. name: what messages call the file.

        Raises:
            ModelFileError: They do not fit together.
        """
        if "prototypes" not in constants:
            return None
        try:
            prototypes = np.asarray(constants["prototypes"], np.float16)
            if len(prototypes) != width:
                raise ValueError(f"there are {width} features")
            taught = None
            if "taught_weight" in constants:
                weight, bias = constants["taught_weight"], constants["taught_bias"]
                taught = Dense(np.asarray(weight, np.float32), np.asarray(bias, np.float32))
            scales = []
            for number in range(1 if taught is None else 2):
                typical = float(constants[f"typical{number}"])
                scales.append((typical, typical + float(constants[f"span{number}"])))
            return cls(prototypes, taught, tuple(scales))
        except (KeyError, ValueError, TypeError) as error:
            raise ModelFileError(
                f"{name}: the constants of its unfamiliarity are not valid ({error}); the file is "
                "damaged"
            ) from None


def find_prototypes(
    features: Features, *, classes: int, seed: int, photos_each: int = PHOTOS_EACH
) -> npt.NDArray[np.float16]:
    """Return prototypes of training photos, float16 (K, P), the same bits on any number of cores.

    Args:
        features: float32 (N, K), at least one photo.
        classes: number of classes.
        seed: of the first prototypes.
        photos_each: photos for a prototype, at least.
    """
    generator = np.random.default_rng((seed, 3))
    if len(features) > MOST_FITTED:
        features = features[np.sort(generator.choice(len(features), MOST_FITTED, replace=False))]
    wanted = min(max(PROTOTYPES, 2 * classes), MOST_PROTOTYPES)
    count = max(1, min(wanted, len(features) // photos_each))
    with one_blas_thread():
        centres = _spherical_means(_directions(features), count, generator)
    return np.ascontiguousarray(centres.T).astype(np.float16)


def _directions(features: Features) -> Features:
    """Return features scaled to length 1."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, SMALLEST), np.float32)


def _spherical_means(
    directions: Features, count: int, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return the centres of spherical k-means, float32 (P, K), of length 1."""
    centres = directions[np.sort(generator.choice(len(directions), count, replace=False))]
    for _ in range(ITERATIONS):
        nearest = _nearest(directions, centres)
        order = np.argsort(nearest, kind="stable")
        taken, start = np.unique(nearest[order], return_index=True)
        # A centre without photos stays where it is.
        centres[taken] = _directions(np.add.reduceat(directions[order], start, axis=0))
    return centres


def _nearest(directions: Features, centres: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the number of the nearest centre of each photo, int64 (N,)."""
    parts = [directions[start : start + CHUNK] for start in range(0, len(directions), CHUNK)]
    found = parallel.ordered(lambda part: (part @ centres.T).argmax(axis=1), parts)
    return np.concatenate(list(found))
