"""Fixtures: an empty store of corrections on each kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tailorbird.corrections import (
    Corrections,
    open_store,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    return (
        str(tmp_path / "shop.db")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Corrections]:
    """Open a store that keeps photos in shop.photos."""
    with open_store(url, photos=tmp_path / "shop.photos") as opened:
        yield opened
