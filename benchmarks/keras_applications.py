"""Compare every Keras application, as a backbone with random weights, with Keras.

    python benchmarks/keras_applications.py [NAME ...] [--size 96]

Prints a line per network: the largest difference from Keras relative to the largest feature (at
most 1e-3 is allowed), whether the weights read back from the ONNX file are equal bit by bit, and
the seconds for building, converting and checking. Batch normalisation gets random statistics, so
that mistakes in them show. Needs the extra `keras`; KERAS_BACKEND chooses the backend.
"""

from __future__ import annotations

import argparse
import gc
import time
from typing import Any

import numpy as np

from tailorbird.engines.agreement import AGREEMENT
from tailorbird.engines.keras import applications, backend, description
from tailorbird.engines.keras.converter.backbone import export, verify
from tailorbird.rendering.probes import probe_images


def shake(model: Any, seed: int = 0) -> None:
    """Give random values to weights that start as ones or zeros.

    The values are moderate: in a deep network that amplifies, rounding errors alone grow to a tenth
    of the result, in Keras too.
    """
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if "variance" in variable.name:
            variable.assign(random.uniform(1.0, 2.0, variable.shape))
        elif "int" not in str(variable.dtype) and len(variable.shape) == 1:
            centre = 1.0 if variable.name == "gamma" else 0.0
            variable.assign(random.normal(centre, 0.1, variable.shape))
    applications.repair(model)


def check(name: str, size: int) -> tuple[float, bool, float]:
    """Return the largest relative difference, whether weights are equal, and seconds."""
    keras, start = backend.load(), time.perf_counter()
    application = applications.find(name)
    size = max(size, application.least_size)
    model = applications.build(name, size)
    shake(model)
    about = description.describe(application=name, preprocess=application.preprocess)
    proto = export(model, preprocess=application.preprocess, size=size, about=about)
    gap = verify(proto, model, application.preprocess, probe_images(size, 2))
    again, _ = description.rebuild(proto, size)
    pairs = zip(model.weights, again.weights, strict=True)
    equal = all(
        np.array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))
        for a, b in pairs
    )
    return gap, equal, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--size", type=int, default=96)
    chosen = parser.parse_args()
    keras = backend.load()
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, at least {chosen.size} px")
    print(f"{'network':<20} {'difference':>10} {'weights':>9} {'seconds':>8}")
    failed = []
    for name in chosen.names or applications.names():
        try:
            gap, equal, seconds = check(name, chosen.size)
            print(
                f"{name:<20} {gap:>10.1e} {'equal' if equal else 'CHANGED':>9} {seconds:>8.1f}",
                flush=True,
            )
            if not equal or gap > AGREEMENT:
                failed.append(name)
        except Exception as problem:
            print(f"{name:<20} {type(problem).__name__}: {problem}", flush=True)
            failed.append(name)
        keras.backend.clear_session()
        gc.collect()
    print(f"failed: {', '.join(failed)}" if failed else "all agree")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
