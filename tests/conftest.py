"""What the tests share: pictures they draw themselves, a cache of their own, and the data beside the checkout where it is."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.data import MakeDataset, draw_dataset
from support.postgres_server import PostgresServer

# Started in the background of a script, a process ignores Ctrl-C, and so do those it starts; the tests that send one need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    "test_docs.py",
    "test_zoomcamp.py",
    "test_cli.py",
    "test_pull.py",
    "test_training.py",
)
"""Files that take a minute or more on one core, the longest first. They begin first, so that no core waits for the last of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first, the others as they are."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        )
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TAILORBIRD_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 24 drawn pictures; tests must not change it."""
    return draw_dataset(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Iterator[Path]:
    """A model trained on `shapes` with the shipped backbone; tests must not change it."""
    from tailorbird.training import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        output = tmp_path_factory.mktemp("model") / "shapes.onnx"
        train(shapes, output)
        yield output


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Draws a dataset of the test's own."""

    def make(name: str = "photos", **options: object) -> Path:
        return draw_dataset(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; tests must not stop it."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of its database `postgres`, with a password full of characters that URLs must escape."""
    return postgres.url()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> str:
    """The URL of a new and empty database."""
    name = f"test_{secrets.token_hex(4)}"
    postgres.execute(f"CREATE DATABASE {name}")
    return postgres.url(name)
