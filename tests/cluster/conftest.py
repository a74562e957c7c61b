"""A cluster that the tests of a file share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tailorbird.cluster.connection import connected


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Yield Ray, connected to a local cluster of two cores that also finds the tests' helpers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        with connected(cores=2) as ray:
            yield ray
