"""How unlike all training photos a photo is, told by its features.

    distance       1 - max_p cos(features, prototype_p)          0 to 2
    unfamiliarity  (distance - typical) / (limit - typical)      0: as a usual photo of the classes,
                                                                 above 1: unlike nearly all of them

The prototypes are centres of spherical k-means (I. S. Dhillon and D. S. Modha, Machine Learning 42,
2001) over the features of the training photos: the nearest neighbour of Y. Sun, Y. Ming, X. Zhu and
Y. Li (Out-of-distribution detection with deep nearest neighbors, ICML 2022) with few vectors
instead of all. benchmarks/unfamiliarity.py compares it with other scores.

Shapes: N photos, K features, P prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.errors import ModelFileError
from tailorbird.onnx_files import NodeBuilder
from tailorbird.parallel import one_blas_thread

PROTOTYPES: Final = 256
"""Number of prototypes; more than 128 classes have two each."""

MOST_PROTOTYPES: Final = 1024
ITERATIONS: Final = 6

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
"""Least distance that becomes 1, so that rounding does not decide."""

Features = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Unfamiliarity:
    """The score of a model file.

    prototypes: float16 (K, P), columns of length 1; half the bytes of float32, and no score changes
    by more than a thousandth of the scale. typical: the distance that becomes 0. limit: the
    distance that becomes 1.
    """

    prototypes: npt.NDArray[np.float16]
    typical: float = 0.0
    limit: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what gives no finite score."""
        if self.prototypes.ndim != 2 or not self.prototypes.shape[1]:
            raise ValueError(f"prototypes need shape (K, P), not {self.prototypes.shape}")
        if not (np.isfinite(self.prototypes).all() and 0 < self.limit - self.typical < np.inf):
            raise ValueError(
                f"prototypes must be finite and the limit {self.limit} above the typical distance "
                f"{self.typical}"
            )

    def scores(self, features: Features) -> Scores:
        """Return the unfamiliarity of photos, float32 (N,), from features float32 (N, K)."""
        nearest = (_directions(features) @ self.prototypes.astype(np.float32)).max(axis=1)
        return np.asarray((1 - self.typical - nearest) / (self.limit - self.typical), np.float32)

    def nodes(self, add: NodeBuilder, features: str) -> None:
        """Append the nodes that compute the output `unfamiliarity` from features (N, K).

        They are the same in every version of the operator set, unlike reductions.
        """
        from onnx import TensorProto

        width = len(self.prototypes)
        squares = add.node("Mul", features, features)
        ones = add.constant("ones", np.ones((width, 1), np.float32))
        norm = add.node("Sqrt", add.node("MatMul", squares, ones))
        norm = add.node("Max", norm, add.constant("smallest", np.float32(SMALLEST)))
        stored = add.constant("prototypes", self.prototypes)
        prototypes = add.node("Cast", stored, to=TensorProto.FLOAT)
        add.node(
            "TopK",
            add.node("MatMul", features, prototypes),
            add.constant("first", np.array([1], np.int64)),
            outputs=2,
            axis=1,
            largest=1,
            sorted=1,
        )
        nearest = add.node("Div", add.nodes[-1].output[0], norm)
        span = self.limit - self.typical
        slope = add.constant("unfamiliarity_slope", np.float32(-1 / span))
        shift = add.constant("unfamiliarity_shift", np.float32((1 - self.typical) / span))
        scaled = add.node("Add", add.node("Mul", nearest, slope), shift)
        flat = add.constant("unfamiliarity_shape", np.array([-1], np.int64))
        add.node("Reshape", scaled, flat, name="unfamiliarity")

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
            slope = float(constants["unfamiliarity_slope"])
            shift = float(constants["unfamiliarity_shift"])
            prototypes = np.asarray(constants["prototypes"], np.float16)
            if len(prototypes) != width:
                raise ValueError(f"there are {width} features")
            return cls(prototypes, 1 + shift / slope, 1 + (shift - 1) / slope)
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
            raise ModelFileError(
                f"{name}: the constants of its unfamiliarity are not valid ({error}); the file is "
                "damaged"
            ) from None

    def scaled(self, scores: Scores, share: float) -> Unfamiliarity:
        """Return the same with another scale: 0 is the median of scores, 1 the top `share`."""
        typical, limit = np.quantile(scores.astype(np.float64), [0.5, 1 - share]).tolist()
        span = self.limit - self.typical
        start = self.typical + span * typical
        return replace(self, typical=start, limit=start + max(span * (limit - typical), NARROWEST))


def find_prototypes(features: Features, *, classes: int, seed: int) -> Unfamiliarity:
    """Find the prototypes of training photos; the result has the same bits on any machine's cores.

    Args:
        features: float32 (N, K), at least one photo.
        classes: number of classes.
        seed: of the first prototypes.
    """
    generator = np.random.default_rng((seed, 3))
    if len(features) > MOST_FITTED:
        features = features[np.sort(generator.choice(len(features), MOST_FITTED, replace=False))]
    wanted = min(max(PROTOTYPES, 2 * classes), MOST_PROTOTYPES)
    count = max(1, min(wanted, len(features) // PHOTOS_EACH))
    with one_blas_thread():
        centres = _spherical_means(_directions(features), count, generator)
    return Unfamiliarity(np.ascontiguousarray(centres.T).astype(np.float16))


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
