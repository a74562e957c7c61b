"""Run ONNX files on an emulated processor, with Debian's package qemu-user."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tailorbird.errors import InputError
from tailorbird.inference import Runner

QEMU = shutil.which("qemu-x86_64")
HASWELL = "Haswell"
"""An Intel processor of 2013 with AVX2, without VNNI."""

needs_qemu = pytest.mark.skipif(
    QEMU is None or platform.machine() != "x86_64",
    reason="needs qemu-x86_64 (Debian's package qemu-user) on an x86-64 machine",
)

_CHILD = """
import sys
import numpy as np
from support.emulation import answers
given = np.load(sys.argv[1])
np.savez(sys.argv[2], **answers({name: given[name] for name in given.files}))
"""


def answers(images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first output, features or probabilities, of each file for its images.

    images: by file, uint8 (N, S, S, 3); run one by one.
    """
    found = {}
    for name, pixels in images.items():
        runner = Runner(Path(name).read_bytes(), name, InputError)
        output = next(one for one in ("probabilities", "features") if one in runner.outputs)
        rows = [runner.run_batch(image[None], [output])[0] for image in pixels]
        found[name] = np.concatenate(rows)
    return found


def emulated(
    images: Mapping[str, np.ndarray], processor: str = HASWELL, *, timeout: float = 900
) -> dict[str, np.ndarray]:
    """Return what `answers` returns on an emulated processor."""
    assert QEMU is not None
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "given.npz"), Path(folder, "found.npz")
        np.savez(given, **dict(images))  # type: ignore[arg-type]  # the names are files
        subprocess.run(
            [QEMU, "-cpu", processor, sys.executable, "-c", _CHILD, str(given), str(found)],
            check=True,
            stderr=subprocess.DEVNULL,  # qemu lists what it does not emulate
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        result = np.load(found)
        return {name: result[name] for name in result.files}
