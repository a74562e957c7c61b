"""Fixtures and markers of all tests: pictures, a cache per test, a trained model, PostgreSQL."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from support.data import MakeDataset, draw_dataset, needs_shared
from support.postgres_server import PostgresServer

# A process that a script starts in the background ignores Ctrl-C, and so do its children; the
# tests that send one need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same inputs in every run: whether a change passes is no matter of chance. New inputs are
# tried with `pytest --hypothesis-profile=default --hypothesis-seed=N`. No input has a deadline: how
# long one takes is a matter of what else the machine does.
settings.register_profile(
    "same inputs",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same inputs")

# As in an activated environment, so that printed commands begin with `tailorbird`.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

TESTS = Path(__file__).parent
LONGEST = (
    "service/test_lifecycle.py",
    "engines/keras/test_pull.py",
    "test_privacy.py",
    "engines/finetune/test_training.py",
    "engines/keras/test_network.py",
    "importing/test_calibration_and_scores.py",
    "project/test_docs.py",
    "importing/test_equivalence.py",
    "label_errors/test_suspects.py",
    "service/test_fuzz.py",
    "cli/test_cli.py",
)
"""Files that take longest; they start first, so that no core waits for the last of them."""

MARKED_FILES = {
    "keras": ("engines/keras/*.py", "engines/finetune/test_training.py", "importing/*.py"),
    "torch": ("engines/torch/*.py",),
    "ray": ("cluster/*.py",),
    "long": (
        "backbone/test_hub.py",
        "corrections/test_training_on_corrections.py",
        "dataset/test_altered_copies.py",
        "dataset/test_duplicates.py",
        "dataset/test_scan.py",
        "demo/*.py",
        "engines/finetune/test_resuming.py",
        "experiments/test_sweep.py",
        "int8/*.py",
        "label_errors/*.py",
        "labelling/test_label_api.py",
        "labelling/test_labelling.py",
        "test_retraining.py",
        "training/*.py",
    ),
    "process": (
        "deploy/*.py",
        "project/test_docs.py",
        "service/test_connections.py",
        "service/test_fuzz.py",
        "service/test_lifecycle.py",
        "service/test_overload.py",
        "service/test_refused_requests.py",
        "service/test_token.py",
    ),
}
"""Marker -> the files, relative to tests/, all of whose tests have it."""

MARKED_FIXTURES = {
    "browser": "browser",
    "postgres": "postgres",
    "replay": "slow",
    "server": "process",
    "tutorial": "slow",
}
"""Fixture -> the marker of the tests that use it."""


STARTERS = {"run", "serve", "serve_with", "serving", "reviewing"}
"""Names of the helpers in tests/support that start processes."""


def starts_process(item: pytest.Item) -> bool:
    """Return whether the test's own code names `subprocess` or a helper that starts processes."""
    function = getattr(item, "function", None)
    if function is None:
        return False
    used = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    helpers = {name for name, value in used.items() if _module(value).startswith("support.")}
    return bool(helpers & STARTERS) or used.get("subprocess") is subprocess


def _module(value: object) -> str:
    return str(getattr(value, "__module__", ""))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add markers that follow from file and fixtures, and start the longest files first."""

    def order(item: pytest.Item) -> int:
        file = item.path.relative_to(TESTS).as_posix()
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)

    for item in items:
        for marker, patterns in MARKED_FILES.items():
            if any(item.path.relative_to(TESTS).match(pattern) for pattern in patterns):
                item.add_marker(marker)
        if needs_shared.mark in item.iter_markers("skipif"):
            item.add_marker("slow")  # drawn pictures cover the same; real ones repeat benchmarks
        if starts_process(item):
            item.add_marker("process")
        for fixture, marker in MARKED_FIXTURES.items():
            if fixture in getattr(item, "fixturenames", ()) or f"[{fixture}" in item.name:
                item.add_marker(marker)
    items.sort(key=order)


def pytest_collectstart() -> None:
    """Seed before a module of tests is imported: layers of Keras draw their seed when made."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed before fixtures of any scope."""
    seed()


def seed() -> None:
    """Seed what networks with random weights are drawn from.

    Functions of this project take a seed; only networks that tests build themselves depend on this.
    Keras draws its own seeds from the module random.
    """
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TAILORBIRD_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of three classes of 24 drawn pictures; tests must not change it."""
    return draw_dataset(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Iterator[Path]:
    """Return a model trained on `shapes` with the default backbone; tests must not change it."""
    from tailorbird.training import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("model") / "shapes.onnx"
        train(shapes, output, backbone="pocket")
        yield output


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Return a function that draws a dataset for this test alone."""

    def make(name: str = "photos", **options: object) -> Path:
        return draw_dataset(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Return a real PostgreSQL server; tests must not stop it."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres: PostgresServer) -> str:
    """Return the URL of database `postgres`; its password has characters that URLs must escape."""
    return postgres.url()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> str:
    """Return the URL of a new and empty database."""
    name = f"test_{secrets.token_hex(4)}"
    postgres.execute(f"CREATE DATABASE {name}")
    return postgres.url(name)
