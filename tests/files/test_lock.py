from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.errors import StorageError
from tailorbird.files import exclusive

HOLDER = """
import sys, time
from pathlib import Path
from tailorbird.files import exclusive
with exclusive(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_is_held_by_one_block_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with (
        exclusive(path, "first"),
        pytest.raises(StorageError, match=r"^somebody else$"),
        exclusive(path, "somebody else"),
    ):
        pass
    with exclusive(path, "free again"):
        pass


def test_an_error_in_the_block_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path / "lock", "first"):
        raise KeyError
    with exclusive(tmp_path / "lock", "free again"):
        pass


def test_a_killed_process_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(StorageError, match="is at work"), exclusive(path, "another is at work"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with exclusive(path, "free again"):
        pass


def test_a_lock_file_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(StorageError, match="could not be written"),
        exclusive(tmp_path / "file" / "lock", "busy"),
    ):
        pass
