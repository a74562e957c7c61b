"""Names of the pictures that `explain` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.cli.explain import _Names


@pytest.mark.parametrize("sign", ["a", "é", "布", "👗"])
def test_names_of_pictures_fit_into_255_bytes_in_any_script(tmp_path: Path, sign: str) -> None:
    longest = sign * (250 // len(sign.encode())) + ".jpg"
    names = _Names(tmp_path, set())
    for _ in range(3):
        path = names.of(longest)
        path.write_bytes(b"")
        assert path.name.startswith(sign) and len(path.name.encode()) <= 255
