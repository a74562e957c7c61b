"""A row store with an index opens without reading its chunks, and loses nothing by it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailorbird.files import RowStore, store
from tailorbird.files.store_index import SUFFIX, StoreIndex, write_index

CHUNKS = 40


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def row(number: int) -> Any:
    return np.full(5, number, np.float32)


def opened(folder: Path) -> RowStore:
    return RowStore(folder, dtype=np.float32, width=5)


def fill(folder: Path, chunks: range) -> None:
    """Write chunks of two rows; row 2n and 2n + 1 are in chunk n."""
    kept = opened(folder)
    for number in chunks:
        numbers = (2 * number, 2 * number + 1)
        kept.put([key(n) for n in numbers], np.stack([row(n) for n in numbers]))


@pytest.fixture(autouse=True)
def early_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "INDEXED_CHUNKS", 10)
    monkeypatch.setattr(store, "MOST_INDICES", 3)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Return a store of 40 chunks that was opened once, so that it has an index."""
    fill(tmp_path, range(CHUNKS))
    opened(tmp_path)
    return tmp_path


def check(kept: RowStore, numbers: range) -> None:
    wanted = list(numbers)
    np.testing.assert_array_equal(
        kept.get([key(n) for n in wanted]), np.stack([row(n) for n in wanted])
    )


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the names of the chunks that are read."""
    names: list[str] = []
    before = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        names.append(path.name)
        return before(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return names


def test_an_indexed_store_opens_without_reading_its_chunks(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = reads(monkeypatch)
    kept = opened(filled)
    assert names == []
    assert len(kept) == 2 * CHUNKS
    assert all(key(n) in kept for n in range(2 * CHUNKS)) and key(999) not in kept
    assert names == []
    check(kept, range(6, 10))
    assert len(names) == 2


def test_new_chunks_join_and_indices_are_merged(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in range(CHUNKS, CHUNKS + 60, 12):
        fill(filled, range(start, start + 12))
        kept = opened(filled)
        check(kept, range(2 * start + 24))
        assert len(list(filled.glob(f"*{SUFFIX}"))) < 3
    fill(filled, range(CHUNKS + 60, CHUNKS + 63))
    names = reads(monkeypatch)
    kept = opened(filled)
    assert len(names) == 3, "those outside every index"
    check(kept, range(2 * (CHUNKS + 63)))


def test_a_chunk_that_is_gone_or_cut_is_missing(filled: Path) -> None:
    first, second = sorted(filled.glob("*.rows"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-4])
    kept = opened(filled)
    lost = [n for n in range(2 * CHUNKS) if key(n) not in kept]
    assert len(lost) == 4 and len(kept) == 2 * CHUNKS - 4
    assert kept.damaged == 1 and not second.exists()
    kept.put([key(n) for n in lost], np.stack([row(n) for n in lost]))
    check(kept, range(2 * CHUNKS))
    check(opened(filled), range(2 * CHUNKS))


def test_a_damaged_row_is_found_when_it_is_read(filled: Path) -> None:
    chunk = sorted(filled.glob("*.rows"))[0]
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(bytes(content))
    kept = opened(filled)
    with pytest.raises(KeyError):
        check(kept, range(2 * CHUNKS))
    assert not chunk.exists()
    assert len(kept) == len(opened(filled)) == 2 * CHUNKS - 2


@pytest.mark.parametrize("content", [b"", b"nothing", b"TBINDX1\n" + b"\xff" * 40])
def test_a_damaged_index_is_replaced(filled: Path, content: bytes) -> None:
    (index,) = filled.glob(f"*{SUFFIX}")
    index.write_bytes(content)
    check(opened(filled), range(2 * CHUNKS))
    (again,) = filled.glob(f"*{SUFFIX}")
    assert len(StoreIndex(again)) == 2 * CHUNKS


def test_an_index_of_other_rows_answers_nothing(tmp_path: Path) -> None:
    path = write_index(tmp_path, [], {})
    index = StoreIndex(path)
    assert len(index) == 0 and index.find(key(1)) is None and list(index.places()) == []


def test_keys_with_the_same_beginning_are_told_apart(tmp_path: Path) -> None:
    keys = [bytes(8) + bytes([n]) * 24 for n in range(5)]
    places = [(one, ("a.rows", number)) for number, one in enumerate(keys)]
    index = StoreIndex(write_index(tmp_path, places, {"a.rows": 10}))
    assert [index.find(one) for one in keys] == [("a.rows", n) for n in range(5)]
    assert index.find(bytes(8) + bytes([9]) * 24) is None
