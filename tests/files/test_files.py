from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tailorbird.errors import StorageError
from tailorbird.files import (
    RowStore,
    atomic_path,
    cache_folder,
    sha256_file,
    write_bytes,
    write_text,
)
from tailorbird.files.atomic import _HOST


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def rows(numbers: list[int], width: int = 5) -> np.ndarray:
    return np.array([[number * 10 + i for i in range(width)] for number in numbers], np.float32)


def store(folder: Path, width: int = 5) -> RowStore:
    return RowStore(folder, dtype=np.float32, width=width, about={"what": "test"})


def test_atomic_write_replaces_only_when_finished(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    write_bytes(target, b"old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    write_text(target, "neu ä")
    assert target.read_text(encoding="utf-8") == "neu ä"
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]
    assert sha256_file(target) == hashlib.sha256("neu ä".encode()).hexdigest()


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 250 + ".onnx")
    write_bytes(target, b"x")
    assert target.read_bytes() == b"x"


def test_leftovers_of_a_killed_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    gone = tmp_path / f".tailorbird-{_HOST}-{int(dead.stdout)}-0123abcd.tmp"
    living = tmp_path / f".tailorbird-{_HOST}-{os.getppid()}-0123abcd.tmp"
    elsewhere = tmp_path / f".tailorbird-00000000-{int(dead.stdout)}-0123abcd.tmp"
    for path in (gone, living, elsewhere):
        path.write_bytes(b"half")
    write_bytes(tmp_path / "file", b"x")
    assert not gone.exists() and living.exists() and elsewhere.exists(), (
        "a number of another host says nothing here"
    )


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    with pytest.raises(StorageError, match="is not a file that can be replaced"):
        write_bytes(tmp_path, b"x")


def test_a_full_disk_is_named_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store(tmp_path)
    kept.put([key(1)], rows([1]))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    message = (
        r"the disk is full: .* could not be written; free some space and run again, nothing else "
        "was lost"
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=message):
            kept.put([key(2)], rows([2]))
    again = store(tmp_path)
    assert len(again) == 1 and np.array_equal(again.get([key(1)]), rows([1]))
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full"
)
def test_a_really_full_device(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with pytest.raises(StorageError, match="the disk is full"), atomic_path(target) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x" * 100_000)
    assert not target.exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not be written"):
        write_bytes(tmp_path / "file" / "below", b"x")


def test_cache_folder_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("TAILORBIRD_CACHE")
    assert cache_folder().name == "tailorbird"


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.put([key(i) for i in range(300)], rows(list(range(300))))
    first.put([key(i) for i in range(300, 310)], rows(list(range(300, 310))))
    again = store(tmp_path)
    assert len(again) == 310 and key(305) in again and key(999) not in again
    assert np.array_equal(again.get([key(309), key(0), key(150), key(0)]), rows([309, 0, 150, 0]))
    with pytest.raises(KeyError):
        again.get([key(999)])
    assert (tmp_path / "about.json").read_text().count("test") == 1


def test_the_same_rows_twice_are_one_chunk(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    one.put([key(1), key(2)], rows([1, 2]))
    other.put([key(1), key(2)], rows([1, 2]))
    assert len(list(tmp_path.glob("*.rows"))) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "header"])
def test_a_damaged_chunk_is_noticed_and_made_again(tmp_path: Path, damage: str) -> None:
    good = store(tmp_path)
    good.put([key(1)], rows([1]))
    good.put([key(2)], rows([2]))
    path = good._where[key(1)][0]
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    path.write_bytes(
        {
            "flip": bytes(data),
            "cut": bytes(data[:-3]),
            "empty": b"",
            "header": b"garbage" + bytes(data[7:]),
        }[damage]
    )
    with pytest.raises(KeyError, match="is gone"):
        good.get([key(1)])
    assert key(1) not in good and good.damaged == 1
    again = store(tmp_path)
    assert key(1) not in again and key(2) in again
    again.put([key(1)], rows([1]))
    assert np.array_equal(store(tmp_path).get([key(2), key(1)]), rows([2, 1]))


def test_a_chunk_of_another_width_is_not_mistaken(tmp_path: Path) -> None:
    store(tmp_path, width=5).put([key(1)], rows([1]))
    assert len(store(tmp_path, width=7)) == 0


def test_wrong_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="under keys of 32 bytes"):
        store(tmp_path).put([b"short"], rows([1]))


WRITER = """
import hashlib, sys, time
from pathlib import Path
import numpy as np
from tailorbird.files import RowStore
start, count = int(sys.argv[2]), int(sys.argv[3])
store = RowStore(Path(sys.argv[1]), dtype=np.float32, width=5)
print("ready", flush=True)
for number in range(start, start + count):
    key = hashlib.sha256(str(number).encode()).digest()
    store.put([key], np.array([[number * 10 + i for i in range(5)]], np.float32))
"""


def test_two_processes_at_once_do_not_corrupt_the_store(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WRITER, str(tmp_path)]
    # The ranges overlap: both write rows 50 to 99.
    both = [
        subprocess.Popen([*arguments, str(start), "100"], stdout=subprocess.DEVNULL)
        for start in (0, 50)
    ]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    found = store(tmp_path)
    assert found.damaged == 0 and len(found) == 150
    assert np.array_equal(found.get([key(i) for i in range(150)]), rows(list(range(150))))


def test_kill_9_while_writing_leaves_only_whole_chunks(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "0", "100000"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("*.rows"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = store(tmp_path)
    assert found.damaged == 0 and len(found) >= 20
    numbers = list(range(len(found)))
    assert np.array_equal(found.get([key(i) for i in numbers]), rows(numbers))
    found.put([key(-1)], rows([-1]))
    assert not list(tmp_path.glob(".*.tmp")), (
        "what the killed process left half-written is cleared away"
    )
