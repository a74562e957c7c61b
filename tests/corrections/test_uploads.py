"""Counts of uploads on both databases: several writers, old days, other models."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor

import pytest

from tailorbird.corrections import Corrections, open_store
from tailorbird.corrections.uploads import KEPT_DAYS, Place

MODEL, OTHER = "a" * 64, "b" * 64


def day(ago: int) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    return (today - datetime.timedelta(days=ago)).isoformat()


def test_counts_add_up_by_model_day_and_bin(store: Corrections, url: str) -> None:
    assert store.uploads(MODEL) == {}
    here, there = Place(MODEL, day(0), "confidence", 3), Place(MODEL, day(1), "predicted", 0)
    store.add_uploads({here: 2, there: 1, Place(OTHER, day(0), "confidence", 3): 7})
    store.add_uploads({here: 3})
    assert store.uploads(MODEL) == {there: 1, here: 5}
    with open_store(url, create=False) as again:
        assert list(again.uploads(MODEL)) == [there, here], "oldest day first"


def test_several_processes_add_to_the_same_counts(url: str) -> None:
    """Each opens the new database, so that they also create the table at once."""
    places = [Place(MODEL, day(0), "predicted", number) for number in range(40)]

    def write(turn: int) -> None:
        ordered = places if turn % 2 else places[::-1]
        with open_store(url) as own:
            for _ in range(5):
                own.add_uploads(dict.fromkeys(ordered, 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with open_store(url) as store:
        assert store.uploads(MODEL) == dict.fromkeys(places, 20)


def test_old_days_are_deleted(store: Corrections) -> None:
    kept, old = (Place(MODEL, day(ago), "answer", 0) for ago in (KEPT_DAYS - 1, KEPT_DAYS))
    store.add_uploads({kept: 1, old: 1})
    assert store.uploads(MODEL) == {kept: 1}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_database_without_counts_is_read(url: str) -> None:
    open_store(url).close()
    with open_store(url, create=False) as store:
        assert store.uploads(MODEL) == {}
