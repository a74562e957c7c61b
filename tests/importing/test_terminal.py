"""What an import writes to the terminal: nothing of the framework's own log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.importing import pooled_classifier


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_log_lines_of_the_framework_do_not_reach_the_terminal(backend: str, tmp_path: Path) -> None:
    model = pooled_classifier((32, 32, 3))
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.save(tmp_path / "model.h5")
    (tmp_path / "labels.txt").write_text("0 ant\n1 bee\n2 cow\n")
    command = ["import", "model.h5", "--classes", "labels.txt", "--preprocess", "unit"]
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("TF_", "KERAS"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", *command, "-o", "out.onnx"],
        cwd=tmp_path,
        env={**environment, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout.startswith("Not scored and not calibrated"), done
