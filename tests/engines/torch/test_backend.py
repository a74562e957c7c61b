"""PyTorch beside other frameworks in one process."""

from __future__ import annotations

import subprocess
import sys

AFTER_TENSORFLOW = """
import tensorflow
from tailorbird.engines.torch import backend
torch, timm = backend.load()
print(int(torch.ones(3).sum()), int(tensorflow.reduce_sum(tensorflow.ones(4))))
"""


def test_it_loads_in_a_process_that_has_tensorflow() -> None:
    """Triton, which PyTorch imports where it is installed, would crash such a process."""
    done = subprocess.run(
        [sys.executable, "-c", AFTER_TENSORFLOW],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "4"]
